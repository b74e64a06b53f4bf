"""Guards against what networks, clients and machines do."""

from tests.mutations.guards import Guard

RECEIPT = "tests/server/test_receipt.py"
HTTP = "tests/client/test_http.py"

GUARDS = [
    Guard(
        "server/receipt.py",
        "a request that drips keeps its connection",
        'self._refuse(b"408 Request Timeout", b"the request took too long to arrive")',
        "pass",
        RECEIPT,
    ),
    Guard(
        "server/receipt.py",
        "a large body has no more time than a small one",
        " + self._received / self.bytes_per_second",
        "",
        RECEIPT,
    ),
    Guard(
        "server/receipt.py",
        "a server that does not read blames its client",
        "            self._since = now\n",
        "            pass\n",
        RECEIPT,
    ),
    Guard(
        "server/receipt.py",
        "bytes that begin no request keep a connection",
        '            self._begin("due")  # bytes that belong to no request\n',
        "            pass\n",
        RECEIPT,
    ),
    Guard(
        "server/receipt.py",
        "headers may grow without end",
        '        if self._phase == "headers" and self._received > MAXIMUM_HEADER_BYTES:',
        "        if False:",
        RECEIPT,
    ),
    Guard(
        "server/routing.py",
        "a server that stops takes new work",
        '        if self._state.is_stopping and route.method == "POST" and route.kinds is USER:',
        "        if False:",
        "tests/server/test_stopping.py",
    ),
    Guard(
        "server/http.py",
        "large bodies are read however many there are",
        "            await self._hold(stated)\n",
        "",
        "tests/server/test_bodies.py",
    ),
    Guard(
        "server/routing.py",
        "room for a body is never given back",
        "            call.end()",
        "            pass",
        "tests/e2e/test_large_payloads.py -k all_at_once",
    ),
    Guard(
        "server/upkeep/lock.py",
        "an index in trouble is asked once only",
        "        if error.is_retryable and tries + 1 < MAXIMUM_TRIES:",
        "        if False:",
        "tests/server/test_locker.py",
    ),
    Guard(
        "server/upkeep/lock.py",
        "an index that is away fails tasks in the end",
        "        if error.is_away:",
        "        if False:",
        "tests/server/test_locker.py",
    ),
    Guard(
        "worker/preparation.py",
        "a task fails for an index that is away from its worker",
        "        if error.is_away:",
        "        if False:",
        "tests/e2e/test_index_faults.py -k outlive",
    ),
    Guard(
        "server/run.py",
        "a server has only the descriptors that it began with",
        "    log_to_stderr()\n    _allow_many_connections()\n",
        "    log_to_stderr()\n",
        "tests/e2e/test_crowds.py -k all_the_descriptors",
    ),
    Guard(
        "client/http.py",
        "a reply whose headers broke off passes for a whole one",
        "    if response.length is None and not response.chunked:",
        "    if False:",
        HTTP,
    ),
    Guard(
        "client/http.py",
        "a request that was not answered in time is sent again at once",
        "                if not isinstance(error.__cause__, ConnectionError):\n",
        "                if False:\n",
        HTTP,
    ),
    Guard(
        "client/aio.py",
        "a full disk is taken for a lost server",
        "            if isinstance(error, OSError) and error.errno in _OF_THE_DISK:\n",
        "            if False:\n",
        HTTP,
    ),
    Guard(
        "worker/agent.py",
        "a worker whose disk is full asks for more",
        "        if self._is_draining or not self._disk.has_room():",
        "        if self._is_draining:",
        "tests/e2e/test_worker_faults.py -k disk",
    ),
    Guard(
        "worker/agent.py",
        "a worker that joins again on a full disk loses its name",
        "        if worker == self._identity():\n            return",
        "        if False:\n            return",
        "tests/worker/test_agent.py -k full_disk",
    ),
    Guard(
        "worker/disk.py",
        "what did not fit is tried again at once",
        "        self._wanted_bytes = self._free()[0] + MORE_BYTES\n",
        "",
        "tests/worker/test_disk.py",
    ),
    Guard(
        "worker/preparation.py",
        "packages are fetched once only",
        "if error.is_unfit or not error.is_retryable or self._absences.has(digest):",
        "if True:",
        "tests/e2e/test_index_faults.py -k asked_again",
    ),
]
