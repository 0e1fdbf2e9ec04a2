"""Registers DEVICES devices over the API of a server at ADDRESS.

Usage: many_devices.py ADDRESS DEVICES
"""

import http.client
import json
import sys

address, devices = sys.argv[1], int(sys.argv[2])
connection = http.client.HTTPConnection(address)
for number in range(devices):
    body = json.dumps({"tags": {"line": str(number % 20), "site": "north" if number % 2 else "south"}})
    path = f"/api/v1/workspaces/default/devices/device-{number:04}"
    connection.request("PUT", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status < 300, (path, answer.status, text)
