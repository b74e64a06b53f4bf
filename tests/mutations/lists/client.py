"""Guards of the executor: no call is lost on the way, and none takes others with it."""

from tests.mutations.guards import Guard

_EXECUTOR = "tests/client/test_executor.py"


GUARDS = [
    Guard(
        "client/sender.py",
        "one refused task takes those beside it with it",
        "        wrong = [items[index]]\n",
        "        wrong = list(items)\n",
        _EXECUTOR,
    ),
    Guard(
        "client/sender.py",
        "what is wrong with a function is asked again for each of its calls",
        '        if field.partition(".")[0] not in _OF_ARGUMENTS:\n',
        "        if False:\n",
        _EXECUTOR,
    ),
    Guard(
        "client/sender.py",
        "a batch that others closed ends the executor",
        "            if not self._is_closed_by_others(receiver.batch):\n",
        "            if True:\n",
        _EXECUTOR,
    ),
    Guard(
        "client/sender.py",
        "what was cancelled in time is sent all the same",
        '            if item.stage == "waiting":\n                item.stage = "under way"\n',
        '            if True:\n                item.stage = "under way"\n',
        _EXECUTOR,
    ),
    Guard(
        "client/sender.py",
        "a callback in the sender's own thread waits for it",
        '"under way" and not self._is_own_thread():\n',
        '"under way":\n',
        _EXECUTOR,
    ),
    Guard(
        "client/receiver.py",
        "a broken stream is read again from its start",
        "        self._cursor = lines[-1].cursor or self._cursor\n",
        "",
        _EXECUTOR,
    ),
    Guard(
        "client/receiver.py",
        "futures fail when a look at one of them finds the server away",
        "        except TaskServerError:\n            return  # the stream",
        "        except ZeroDivisionError:\n            return  # the stream",
        _EXECUTOR,
    ),
    Guard(
        "client/receiver.py",
        "a task that is past its retention is waited for without end",
        "        except (NotFound, Gone) as error:\n            oldest.fail(error)\n",
        "",
        _EXECUTOR,
    ),
]
