"""The blocking API: python blocking_api.py ADDRESS"""

import sys

from twistdist.blocking import Client


def divide(a, b):
    return a / b


with Client(sys.argv[1] if len(sys.argv) > 1 else None) as client:
    print("2 ** 10 =", client.submit(pow, 2, 10).result())

    squares = client.map(pow, range(100), [2] * 100)
    print("sum of squares =", client.submit(sum, squares).result())  # futures in a list become inputs

    try:
        client.submit(divide, 1, 0).result()
    except ZeroDivisionError as error:
        print(f"ZeroDivisionError: {error}, in task {error.__twistdist__.key} on worker {error.__twistdist__.worker}")
