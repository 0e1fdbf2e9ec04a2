"""An unmodified azure-iot-device client of a device: it says on standard output what it sees, one JSON object a line, and
does what lines on standard input tell it: `send TEXT`, `report JSON`, `end`. Arguments: the connection string, and the
file with the certificates that it trusts."""

import json
import sys
import threading

from azure.iot.device import IoTHubDeviceClient, IoTHubModuleClient, Message, MethodResponse

lock = threading.Lock()


def say(event, **data):
    with lock:
        print(json.dumps({"event": event, **data}), flush=True)


def main(connection, trust):
    kind = IoTHubModuleClient if "ModuleId=" in connection else IoTHubDeviceClient
    client = kind.create_from_connection_string(
        connection, server_verification_cert=open(trust).read(), connection_retry=False
    )

    def on_method(request):
        say("method", name=request.name, payload=request.payload)
        answer = MethodResponse.create_from_method_request(request, 201, {"done": request.name})
        client.send_method_response(answer)

    client.on_connection_state_change = lambda: say("connection", connected=client.connected)
    client.connect()
    client.on_method_request_received = on_method
    client.on_twin_desired_properties_patch_received = lambda patch: say("patch", patch=patch)
    if kind is IoTHubDeviceClient:
        client.on_message_received = lambda message: say(
            "message", body=message.data.decode(), properties=dict(message.custom_properties)
        )
    say("twin", twin=client.get_twin())
    say("ready")
    for line in sys.stdin:
        word, _, rest = line.strip().partition(" ")
        if word == "send":
            message = Message(rest)
            message.message_id = "m-" + rest
            message.custom_properties["alert"] = "yes"
            client.send_message(message)
            say("sent")
        elif word == "report":
            client.patch_twin_reported_properties(json.loads(rest))
            say("reported")
        else:
            break
    client.shutdown()


main(*sys.argv[1:])
