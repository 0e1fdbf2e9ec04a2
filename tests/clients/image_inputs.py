"""Images against deployments that declare how they become tensors, and Pillow doing the same. The models give back what
they are given. Arguments: the server's address and a key for each of the endpoints, `name=key`."""

import io
import json
import sys
import urllib.error
import urllib.request

import numpy as np
from PIL import Image

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def picture(width, height, mode="RGB"):
    """Something smooth with edges in it, so that interpolation shows."""
    y, x = np.mgrid[0:height, 0:width]
    red = 127 + 120 * np.sin(x / 7.0) * np.cos(y / 11.0)
    green = 255 * ((x // 16 + y // 16) % 2)
    blue = 255.0 * x / width
    image = Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8), "RGB")
    return image.convert(mode)


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def post(address, endpoint, key, body, media_type):
    request = urllib.request.Request(
        f"http://{address}/endpoints/{endpoint}/score",
        body,
        {"Content-Type": media_type, "Authorization": f"Bearer {key}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        # The endpoint says 424, and beside it what the scorer said.
        assert error.code == 424, error.code
        return int(error.headers["ms-azureml-model-error-statuscode"]), error.read().decode()


def shorter(image, side):
    width, height = image.size
    if width < height:
        size = (side, int(height * side / width))
    else:
        size = (int(width * side / height), side)
    return image.resize(size, Image.BILINEAR)


def middle(image, side):
    width, height = image.size
    left, top = int(round((width - side) / 2.0)), int(round((height - side) / 2.0))
    return image.crop((left, top, left + side, top + side))


def imagenet(image):
    pixels = np.asarray(middle(shorter(image.convert("RGB"), 256), 224), np.float32) / 255
    return ((pixels - MEAN) / STD).transpose(2, 0, 1)[None]


def plain(image):
    return np.asarray(image.convert("RGB").resize((40, 30), Image.BILINEAR))[None, :, :, ::-1]


def gray(image):
    return np.asarray(image.convert("L").resize((28, 28), Image.BILINEAR), np.float32)[None, None] / 255


EXPECTED = {
    # What one step of 255 is, in the numbers of the tensor.
    "imagenet": (imagenet, 1 / 255 / 0.224),
    "plain": (plain, 1),
    "gray": (gray, 1 / 255),
}


def main(address, *endpoints):
    keys = dict(endpoint.split("=", 1) for endpoint in endpoints)
    images = [
        (encoded(picture(640, 480), "JPEG", quality=92), "image/jpeg"),
        (encoded(picture(301, 517), "PNG"), "image/png"),
        (encoded(picture(256, 256, "L"), "PNG"), "image/png"),
        (encoded(picture(300, 300, "RGBA"), "PNG"), "image/png"),
        (encoded(picture(500, 333, "L"), "JPEG", progressive=True), "image/jpeg; charset=binary"),
    ]
    for name, (expected, step) in EXPECTED.items():
        for body, media_type in images:
            status, answer = post(address, name, keys[name], body, media_type)
            assert status == 200, (name, media_type, status, answer)
            ours, theirs = np.array(answer, np.float32), expected(Image.open(io.BytesIO(body)))
            assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape)
            # Two decoders of JPEG differ by a step or two, and so do two ways of rounding.
            difference = np.abs(ours - theirs.astype(np.float32)) / step
            assert difference.max() <= 3.5 and difference.mean() <= 0.6, (name, media_type, difference.max(), difference.mean())
        status, _ = post(address, name, keys[name], b'{"nothing": 1}', "application/json")
        assert status == 400, status
    for body, status, word in [
        (b"", 400, "JPEG"),
        (b"GIF89a" + bytes(100), 400, "JPEG"),
        (images[0][0][:200], 400, "decoded"),
        (images[1][0][:-40], 400, "decoded"),
        (encoded(Image.new("L", (20000, 10)), "PNG"), 413, "16384"),
    ]:
        said, answer = post(address, "imagenet", keys["imagenet"], body, "image/png")
        assert said == status and word in answer, (said, status, answer)
    said, answer = post(address, "tensors", keys["tensors"], images[0][0], "image/jpeg")
    assert said == 415 and "moorline.image" in answer, (said, answer)
    print("images become what Pillow makes of them")


main(*sys.argv[1:])
