//! The kernels that channels join, on Intel's emulator: what comes out is what the buffers give, to the bit.

use std::path::{Path, PathBuf};

use moorline_fpga::{
    bitstream::KERNEL_ABI,
    device::DeviceFilter,
    lower,
    program::{Argument, BufferPlan, Launch, Port, Program, Range},
    worker::{Executor, build},
};

use crate::bench::{Bench, SOURCE, arch, floats, parts, sign};

/// Intel's emulator for FPGAs, which is proprietary: where it cannot be installed, not even CI has to have it.
fn emulator() -> Option<PathBuf> {
    let venvs = std::env::var_os("MOORLINE_TEST_VENVS").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("target/venvs"),
        PathBuf::from,
    );
    let library = venvs.join("intel-emulator/lib/libintelocl_emu.so");
    if library.exists() {
        return Some(library);
    }
    use std::io::Write as _;
    // Not fatal: a closed stderr must not turn a skipped test into a failed one.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: no emulator of Intel's at {}; `cargo xtask tools intel-emulator` installs it",
        library.display()
    );
    None
}

/// A convolution of 3 x 3 behind which a pool of `window` x `window` is.
struct Case {
    blocks: usize,
    out_blocks: usize,
    /// Rows and columns behind the pool.
    side: usize,
    window: usize,
    bounds: Option<(f32, f32)>,
}

impl Case {
    fn conv_side(&self) -> usize {
        self.side * self.window
    }

    /// The side of what is read, with its surroundings.
    fn in_side(&self) -> usize {
        self.conv_side() + 2
    }

    fn weights(&self) -> usize {
        self.out_blocks * self.blocks * 9 * 256
    }

    fn taps(&self) -> usize {
        self.blocks * 9
    }

    /// Buffers: input, weights, bias, what is between, output; and the launches that are given.
    fn program(&self, launches: Vec<Launch>, pipelines: Vec<(usize, usize)>) -> Program {
        let bytes = |floats: usize| 4 * floats as u64;
        let (input, output) = (
            bytes(self.blocks * self.in_side() * self.in_side() * 16),
            bytes(self.out_blocks * self.side * self.side * 16),
        );
        let weights = Range { offset: 0, bytes: bytes(self.weights()) };
        let bias = Range { offset: weights.bytes, bytes: bytes(self.out_blocks * 16) };
        let between = bytes(self.out_blocks * self.conv_side() * self.conv_side() * 16);
        let port = |name: &str, buffer, bytes| Port { name: name.to_owned(), buffer, bytes };
        Program {
            architecture: arch().fingerprint(KERNEL_ABI),
            buffers: vec![
                BufferPlan { bytes: input, constant: None },
                BufferPlan { bytes: weights.bytes, constant: Some(weights) },
                BufferPlan { bytes: bias.bytes, constant: Some(bias) },
                BufferPlan { bytes: between, constant: None },
                BufferPlan { bytes: output, constant: None },
            ],
            launches,
            pipelines,
            inputs: vec![port("in", 0, input)],
            outputs: vec![port("out", 4, output)],
        }
    }

    /// How the input is read.
    fn reading(&self) -> Vec<Argument> {
        let row = 16 * self.in_side();
        let block = row * self.in_side();
        integers(&[0, self.blocks * block, block, row, 16, self.blocks, 3, 3, row, 16])
    }

    fn bounds(&self) -> Vec<Argument> {
        let (low, high) = self.bounds.unwrap_or_default();
        let flags = if self.bounds.is_some() { 6 } else { 0 };
        vec![Argument::I32(flags), Argument::F32(low), Argument::F32(high)]
    }

    fn out_steps(side: usize, blocks: usize) -> [usize; 4] {
        [0, blocks * side * side * 16, side * side * 16, side * 16]
    }

    fn through_buffers(&self) -> Program {
        let (side, pooled, window) = (self.conv_side(), self.side, self.window);
        let between = Self::out_steps(side, self.out_blocks);
        let out = Self::out_steps(pooled, self.out_blocks);
        let conv = [
            buffers(&[0, 1, 2, 0, 3]),
            self.reading(),
            integers(&[0; 5]),
            integers(&between),
            integers(&[
                16,
                self.out_blocks,
                side,
                side,
                side,
                side * side,
                1,
                self.out_blocks,
                self.out_blocks,
            ]),
            self.bounds(),
        ];
        let pool = [
            buffers(&[3, 4]),
            integers(&between),
            integers(&[side, side]),
            integers(&out),
            integers(&[
                pooled,
                pooled,
                self.out_blocks,
                window,
                window,
                window,
                window,
                1,
                1,
                0,
                0,
                pooled,
                1,
            ]),
            vec![Argument::I32(0), Argument::F32(0.0), Argument::F32(0.0)],
        ];
        let items = self.out_blocks as u32;
        self.program(
            vec![launch("conv_l16_any_p1_o1", items, &conv), launch("pool_max", items, &pool)],
            Vec::new(),
        )
    }

    fn through_channels(&self) -> Program {
        let (side, pooled, window) = (self.conv_side(), self.side, self.window);
        let read =
            [buffers(&[0]), self.reading(), integers(&[1, self.out_blocks, pooled, pooled, window, window])];
        let conv =
            [buffers(&[1, 2]), integers(&[self.taps(), 1, self.out_blocks, side * side]), self.bounds()];
        let pool = [integers(&[self.out_blocks * pooled * pooled, window * window])];
        let write = [
            buffers(&[4]),
            integers(&Self::out_steps(pooled, self.out_blocks)),
            integers(&[1, self.out_blocks, pooled, pooled]),
        ];
        let launches = vec![
            launch("channel_read", 1, &read),
            launch("channel_conv", 1, &conv),
            launch("channel_pool", 1, &pool),
            launch("channel_write", 1, &write),
        ];
        self.program(launches, vec![(0, 4)])
    }
}

fn integers(values: &[usize]) -> Vec<Argument> {
    values.iter().map(|value| Argument::I32(*value as i32)).collect()
}

fn buffers(indices: &[usize]) -> Vec<Argument> {
    indices.iter().map(|index| Argument::Buffer(*index)).collect()
}

fn launch(kernel: &str, items: u32, arguments: &[Vec<Argument>]) -> Launch {
    Launch {
        kernel: kernel.to_owned(),
        items,
        arguments: arguments.concat(),
        nodes: Vec::new(),
        operations: 0,
        bytes: 0,
    }
}

fn noise(count: usize, mut state: u32) -> Vec<f32> {
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

#[test]
fn channels_give_what_buffers_give() {
    let Some(library) = emulator() else { return };
    let bench = Bench::new();
    let mut settings = bench.settings();
    let library = library.display().to_string();
    settings.launcher.environment.insert("OCL_ICD_VENDORS".to_owned(), library);
    settings.device = DeviceFilter { platform: Some("FPGA Emulation".to_owned()), ..DeviceFilter::default() };
    // Intel's compiler takes minutes for all tiles: of the lines that make a kernel by a macro, one is wanted here.
    let makes_kernel = |line: &str| {
        let name = line.split('(').next().unwrap_or_default();
        !name.is_empty()
            && name.len() < line.len()
            && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
    };
    let unwanted = |line: &&str| makes_kernel(line) && !line.contains("(conv_l16_any_p1_o1,");
    let ours = lower::source();
    let ours: Vec<&str> = ours.lines().filter(|line| !unwanted(line)).collect();
    let source = format!("#define CHANNELS\n{}\n{SOURCE}", ours.join("\n"));
    let built = build(&settings.launcher, &bench.limits, &settings.device, &source).unwrap();
    let executor = Executor::start(settings, sign(parts(&built))).unwrap();
    let cases = [
        Case { blocks: 1, out_blocks: 1, side: 2, window: 2, bounds: None },
        Case { blocks: 2, out_blocks: 2, side: 2, window: 2, bounds: Some((0.0, 1.5)) },
        Case { blocks: 2, out_blocks: 1, side: 3, window: 1, bounds: Some((-0.5, 0.5)) },
    ];
    for case in cases {
        let constants = floats(&noise(case.weights() + case.out_blocks * 16, 7));
        let load = |program: Program| executor.load(program.into(), constants.as_slice().into()).unwrap();
        let (plain, pipeline) = (load(case.through_buffers()), load(case.through_channels()));
        for seed in 1..3 {
            let input = floats(&noise(case.blocks * case.in_side() * case.in_side() * 16, seed));
            let wanted = executor.run(plain, &input).unwrap();
            assert!(wanted[0].iter().any(|byte| *byte != 0));
            assert_eq!(executor.run(pipeline, &input).unwrap(), wanted);
        }
    }
    assert_eq!(executor.restarts(), 0);
}
