"""The Deferred API: python deferred_api.py ADDRESS"""

import sys

from twisted.internet import defer, task

import twistdist


def divide(a, b):
    return a / b


@defer.inlineCallbacks
def main(reactor, address=None):
    client = yield twistdist.connect(reactor, address)
    future = client.submit(pow, 2, 10)
    print("2 ** 10 =", (yield future.result()))

    squares = client.map(pow, range(100), [2] * 100)
    print("sum of squares =", (yield client.submit(sum, squares).result()))

    try:
        yield client.submit(divide, 1, 0).result()
    except ZeroDivisionError as error:
        print(f"ZeroDivisionError: {error}, in task {error.__twistdist__.key} on worker {error.__twistdist__.worker}")
    yield client.close()


task.react(main, sys.argv[1:])
