"""Makes ONNX models with the architectures that serving systems for FPGAs are judged by.

Nothing is downloaded: weights are random, the same in every run, and scaled so that activations stay of one size
through any depth. Some classifiers of VGG are narrower than in the papers, so that files stay small; what share of the
work runs where does not change by that.

    python generate.py FOLDER [NAME ...]
"""

import sys
import zlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Net:
    """A graph that grows node by node; every method gives the name of its result."""

    def __init__(self, name, shape, batch=1):
        self.name, self.nodes, self.weights = name, [], []
        self.channels = {"input": shape[0]}
        self.input = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, *shape])
        self.batch = batch
        self.random = np.random.default_rng(zlib.crc32(name.encode()))

    def node(self, op, inputs, channels=None, **attributes):
        output = f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{op}_{len(self.nodes)}", **attributes))
        self.channels[output] = self.channels[inputs[0]] if channels is None else channels
        return output

    def weight(self, values):
        name = f"w_{len(self.weights)}"
        values = np.asarray(values)
        values = values if values.dtype == np.int64 else values.astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, x, out, kernel, stride=1, pad=None, groups=1, dilation=1, bias=True, gain=2.0):
        inputs = self.channels[x] // groups
        scale = np.sqrt(gain / (inputs * kernel * kernel))
        weights = [self.weight(self.random.standard_normal((out, inputs, kernel, kernel), np.float32) * scale)]
        if bias:
            weights.append(self.weight(self.random.standard_normal(out) * 0.05))
        pad = dilation * (kernel // 2) if pad is None else pad
        return self.node("Conv", [x, *weights], out, kernel_shape=[kernel] * 2, strides=[stride] * 2,
                         pads=[pad] * 4, group=groups, dilations=[dilation] * 2)

    def norm(self, x, gain=1.0):
        c, r = self.channels[x], self.random
        gamma, beta = gain * r.uniform(0.8, 1.2, c), r.standard_normal(c) * 0.1
        mean, var = r.standard_normal(c) * 0.1, r.uniform(0.7, 1.3, c)
        return self.node("BatchNormalization", [x, *map(self.weight, (gamma, beta, mean, var))], epsilon=1e-5)

    def relu(self, x):
        return self.node("Relu", [x])

    def relu6(self, x):
        return self.node("Clip", [x, self.weight(np.float32(0)), self.weight(np.float32(6))])

    def conv_norm(self, x, out, kernel, stride=1, groups=1, act=None, gain=2.0, scale=1.0):
        x = self.norm(self.conv(x, out, kernel, stride, groups=groups, bias=False, gain=gain), scale)
        return act(x) if act else x

    def max_pool(self, x, kernel, stride, pad=0, ceil=0):
        return self.node("MaxPool", [x], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4,
                         ceil_mode=ceil)

    def dense(self, x, inputs, out, gain=2.0):
        weights = self.random.standard_normal((out, inputs), np.float32) * np.sqrt(gain / inputs)
        bias = self.random.standard_normal(out) * 0.05
        return self.node("Gemm", [x, self.weight(weights), self.weight(bias)], out, transB=1)

    def pooled_classifier(self, x, classes):
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x])])
        return self.dense(x, self.channels[x], classes, gain=1.0)

    def model(self, *outputs):
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, self.name, [self.input], infos, self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
        return onnx.shape_inference.infer_shapes(model)


def resnet(name, blocks, size=224, batch=1):
    net = Net(name, [3, size, size], batch)
    x = net.max_pool(net.conv_norm("input", 64, 7, 2, act=net.relu), 3, 2, 1)
    for stage, count in enumerate(blocks):
        width = 64 << stage
        for block in range(count):
            stride = 2 if block == 0 and stage > 0 else 1
            # The branch adds little to the shortcut, or values would grow with the depth.
            y = net.conv_norm(x, width, 1, act=net.relu)
            y = net.conv_norm(y, width, 3, stride, act=net.relu)
            y = net.conv_norm(y, 4 * width, 1, scale=0.3)
            if block == 0:
                x = net.conv_norm(x, 4 * width, 1, stride, gain=1.0)
            x = net.relu(net.node("Add", [y, x]))
    return net.model(net.pooled_classifier(x, 1000))


def densenet_121(name):
    net = Net(name, [3, 224, 224])
    x = net.max_pool(net.conv_norm("input", 64, 7, 2, act=net.relu), 3, 2, 1)
    for stage, layers in enumerate([6, 12, 24, 16]):
        for _ in range(layers):
            y = net.conv(net.relu(net.norm(x)), 128, 1, bias=False)
            y = net.conv(net.relu(net.norm(y)), 32, 3, bias=False)
            x = net.node("Concat", [x, y], net.channels[x] + 32, axis=1)
        if stage < 3:
            x = net.conv(net.relu(net.norm(x)), net.channels[x] // 2, 1, bias=False)
            x = net.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    return net.model(net.pooled_classifier(net.relu(net.norm(x)), 1000))


def vgg_features(net, stages=5):
    x, taps = "input", []
    for stage, (width, count) in enumerate([(64, 2), (128, 2), (256, 3), (512, 3), (512, 3)][:stages]):
        for _ in range(count):
            x = net.relu(net.conv(x, width, 3))
        taps.append(x)
        if stage < 4 or stages < 5:
            x = net.max_pool(x, 2, 2, ceil=1)
    return x, taps


def vgg_16(name):
    net = Net(name, [3, 96, 96])
    x, _ = vgg_features(net)
    x = net.node("Flatten", [net.max_pool(x, 2, 2)], 512 * 3 * 3)
    x = net.relu(net.dense(x, 512 * 3 * 3, 1024))
    x = net.relu(net.dense(x, 1024, 1024))
    return net.model(net.node("Softmax", [net.dense(x, 1024, 1000, gain=1.0)], axis=1))


def ssd_vgg(name):
    classes, anchors = 21, [4, 6, 6, 6, 4, 4]
    net = Net(name, [3, 300, 300])
    x, taps = vgg_features(net)
    # The first map is normalised over its channels, which no kernel does.
    norm = net.node("ReduceL2", [taps[3]], 1, axes=[1], keepdims=1)
    scaled = net.node("Div", [taps[3], norm], 512)
    maps = [net.node("Mul", [scaled, net.weight(np.full((1, 512, 1, 1), 20.0))])]
    x = net.max_pool(x, 3, 1, 1)
    x = net.relu(net.conv(x, 1024, 3, dilation=6))
    x = net.relu(net.conv(x, 1024, 1))
    maps.append(x)
    for squeeze, out, stride, pad in [(256, 512, 2, 1), (128, 256, 2, 1), (128, 256, 1, 0), (128, 256, 1, 0)]:
        x = net.relu(net.conv(net.relu(net.conv(x, squeeze, 1)), out, 3, stride, pad))
        maps.append(x)
    boxes, scores = [], []
    for x, count in zip(maps, anchors):
        for width, collected in [(4, boxes), (classes, scores)]:
            y = net.node("Transpose", [net.conv(x, count * width, 3, gain=0.2)], perm=[0, 2, 3, 1])
            collected.append(net.node("Reshape", [y, net.weight(np.array([1, -1, width], np.int64))]))
    boxes = net.node("Concat", boxes, axis=1)
    scores = net.node("Softmax", [net.node("Concat", scores, axis=1)], axis=2)
    return net.model(boxes, scores)


def mobilenet_v2(name):
    net = Net(name, [3, 224, 224])
    x = net.conv_norm("input", 32, 3, 2, act=net.relu6)
    settings = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2),
                (6, 320, 1, 1)]
    for expand, out, count, first in settings:
        for block in range(count):
            stride, inputs, y = first if block == 0 else 1, net.channels[x], x
            if expand > 1:
                y = net.conv_norm(y, expand * inputs, 1, act=net.relu6)
            y = net.conv_norm(y, net.channels[y], 3, stride, groups=net.channels[y], act=net.relu6)
            y = net.conv_norm(y, out, 1, gain=1.0, scale=0.5 if stride == 1 and inputs == out else 1.0)
            x = net.node("Add", [x, y]) if stride == 1 and inputs == out else y
    x = net.conv_norm(x, 1280, 1, act=net.relu6)
    return net.model(net.pooled_classifier(x, 1000))


def mlp(name, batch="batch"):
    net = Net(name, [784], batch)
    x = net.dense("input", 784, 2048)
    for _ in range(2):
        x = net.dense(net.relu(x), 2048, 2048)
    return net.model(net.node("Softmax", [net.dense(net.relu(x), 2048, 10, gain=1.0)], axis=1))


MODELS = {
    "resnet_50": lambda name: resnet(name, [3, 4, 6, 3]),
    "resnet_152": lambda name: resnet(name, [3, 8, 36, 3], size=96),
    "resnet_any_batch": lambda name: resnet(name, [1, 1, 1, 1], size=64, batch="batch"),
    "densenet_121": densenet_121,
    "vgg_16": vgg_16,
    "ssd_vgg": ssd_vgg,
    "mobilenet_v2": mobilenet_v2,
    "mlp": mlp,
}


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or MODELS:
        # Written aside first: who sees the file sees all of it.
        part = folder / f"{name}.part"
        onnx.save(MODELS[name](name), part)
        part.rename(folder / f"{name}.onnx")


if __name__ == "__main__":
    main()
