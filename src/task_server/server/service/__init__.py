"""The rules of each verb, without HTTP and without SQL."""
