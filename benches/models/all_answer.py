"""Asks every deployment of an endpoint until each has answered once, and prints the seconds from START to the last.

Usage: all_answer.py ADDRESS ENDPOINT KEY START DEPLOYMENTS BODY-FILE, with START in seconds of the monotonic clock.
"""

import http.client
import sys
import time

address, endpoint, key, start, deployments, body_file = sys.argv[1:]
with open(body_file, "rb") as file:
    body = file.read()
left = set(range(int(deployments)))
while left:
    connection = http.client.HTTPConnection(address)
    try:
        for number in sorted(left):
            headers = {
                "authorization": f"Bearer {key}",
                "content-type": "application/json",
                "azureml-model-deployment": f"d{number:03}",
            }
            connection.request("POST", f"/endpoints/{endpoint}/score", body, headers)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                left.discard(number)
    except OSError:
        pass
print(time.clock_gettime(time.CLOCK_MONOTONIC) - float(start))
