"""One client of the unmodified azure-iot-device, told by its arguments how to prove itself.

It says on standard output what it sees, one JSON object a line, and ends when its standard input ends.
"""

import json
import sys
import threading

from azure.iot.device import (
    IoTHubDeviceClient,
    IoTHubModuleClient,
    Message,
    MethodResponse,
    X509,
)

lock = threading.Lock()


def say(event, **data):
    with lock:
        print(json.dumps({"event": event, **data}), flush=True)


def connect(how):
    kind = how["kind"]
    trust = open(how["trust"]).read() if "trust" in how else None
    if kind == "device_sas":
        return IoTHubDeviceClient.create_from_connection_string(
            how["connection"], server_verification_cert=trust
        )
    if kind == "module_sas":
        return IoTHubModuleClient.create_from_connection_string(
            how["connection"], server_verification_cert=trust
        )
    if kind == "device_x509":
        return IoTHubDeviceClient.create_from_x509_certificate(
            x509=X509(cert_file=how["certificate"], key_file=how["key"]),
            hostname=how["hub"],
            device_id=how["device"],
            server_verification_cert=trust,
        )
    if kind == "module_edge":
        return IoTHubModuleClient.create_from_edge_environment()
    raise SystemExit(f"unknown kind {kind}")


def text(message):
    data = message.data
    return data.decode() if isinstance(data, bytes) else data


def main():
    how = json.loads(sys.argv[1])
    client = connect(how)
    client.connect()
    device = how["kind"].startswith("device")

    def on_method(request):
        say("method", name=request.name, payload=request.payload)
        client.send_method_response(
            MethodResponse.create_from_method_request(request, 200, {"echo": request.payload, "by": how["kind"]})
        )

    def on_message(message):
        properties = {str(k): str(v) for k, v in (message.custom_properties or {}).items()}
        say("message", body=text(message), input=message.input_name, properties=properties)

    client.on_twin_desired_properties_patch_received = lambda patch: say("patch", patch=patch)
    client.on_method_request_received = on_method
    client.on_message_received = on_message
    say("twin", twin=client.get_twin())
    client.patch_twin_reported_properties({"kind": how["kind"], "gone": None})
    for number in range(5):
        message = Message(json.dumps({"from": how["kind"], "number": number}))
        message.content_type = "application/json"
        message.content_encoding = "utf-8"
        message.custom_properties["number"] = str(number)
        if device:
            client.send_message(message)
        else:
            client.send_message_to_output(message, "out")
    say("ready")
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "call":
            try:
                answer = client.invoke_method(order["method"], order["device"], order.get("module"))
                say("answer", answer=answer)
            except Exception as error:  # what the library makes of an answer is what is tested
                say("failure", error=repr(error), cause=repr(error.__cause__))
        elif order["do"] == "twin":
            say("twin", twin=client.get_twin())
        elif order["do"] == "large":
            message = Message("x" * order["bytes"])
            client.send_message(message) if device else client.send_message_to_output(message, "large")
            say("sent")
    client.shutdown()


main()
