//! What `cargo xtask fpga` and the tests of this crate start: a worker on a device, and the build of a bitstream, whose
//! compiler is the driver itself and runs in such a worker. Arguments are positions, because programs type them.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that xtask shows the output of")]

use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use moorline_fpga::{
    bitstream::{Bitstream, Kernel, SigningKey, pack},
    conv16,
    device::DeviceFilter,
    lease::{Leases, Quarantine},
    lower,
    worker::{self, Built, Executor, ExecutorSettings, Launcher, Limits},
};

fn main() -> ExitCode {
    let arguments: Vec<String> =
        env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[&str]) -> Result<()> {
    match arguments {
        ["worker"] => Ok(worker::main()?),
        ["build", platform, key, out] => build(platform, Path::new(key), Path::new(out)),
        ["vendor", tool, board, out, defined @ ..] => vendor(tool, board, Path::new(out), defined),
        _ => bail!("expected `worker`; bitstreams are built by `cargo xtask fpga build`"),
    }
}

/// Builds the kernels for the first device of a platform, has it pass the golden tests and writes the bitstream.
fn build(platform: &str, key: &Path, out: &Path) -> Result<()> {
    let key = signing_key(key)?;
    let scratch = tempfile::tempdir().context("could not make a temporary folder")?;
    let launcher = launcher(scratch.path())?;
    let device = filter(platform);
    let built = compile(&launcher, &device)?;
    let name = built.device.id();
    let (manifest, files) = conv16::parts(built, lower::source_on(platform))?.assemble()?;
    let mut bytes = Vec::new();
    pack(&manifest, &files, &key, &mut bytes)?;
    let bitstream = Bitstream::open(&bytes[..], &[key.public()], jiff::Timestamp::now())?;
    // Written only if the device computes what it should.
    let settings = ExecutorSettings {
        launcher,
        limits: limits(),
        device,
        rebuild: false,
        leases: Leases::new(scratch.path().join("leases")),
        quarantine: Quarantine::default(),
        holder: "cargo xtask fpga build".to_owned(),
    };
    drop(
        Executor::start(settings, Arc::new(bitstream))
            .context("the device does not execute what was built")?,
    );
    if let Some(folder) = out.parent() {
        fs_err::create_dir_all(folder)?;
    }
    fs_err::write(out, &bytes)?;
    println!("device        {name}");
    println!("architecture  {} {}", manifest.arch.name, manifest.arch_fingerprint);
    println!("kernels       {}, golden tests passed: {}", manifest.kernels.len(), manifest.golden.len());
    println!("signed by     {}", key.public().id());
    println!("bitstream     {} ({} bytes)", out.display(), bytes.len());
    Ok(())
}

/// Writes the kernels' text and prints the commands, one a line, by which a vendor's compiler makes hardware of it.
fn vendor(tool: &str, board: &str, out: &Path, defined: &[&str]) -> Result<()> {
    fs_err::create_dir_all(out)?;
    let source = out.join("conv16.cl");
    fs_err::write(&source, lower::source())?;
    let (source, out) = (source.display(), out.display());
    match tool {
        // The defaults keep the order of sums; `-ffp-reassociate` and `-ffp-contract=fast` would not.
        "aoc" => {
            let defined = defined.iter().flat_map(|name| ["-D", name, " "]).collect::<String>();
            println!("aoc {defined}-board={board} -o {out}/conv16.aocx {source}");
        }
        "v++" => {
            let scratch = tempfile::tempdir().context("could not make a temporary folder")?;
            let kernels = compile(&launcher(scratch.path())?, &filter("Portable Computing Language"))
                .context("the names of the kernels are asked of PoCL")?
                .kernels;
            for Kernel { name, .. } in &kernels {
                println!("v++ -c -t hw --platform {board} -k {name} -o {out}/{name}.xo {source}");
            }
            let objects = kernels.iter().map(|kernel| format!("{out}/{}.xo", kernel.name));
            let objects: Vec<String> = objects.collect();
            println!("v++ -l -t hw --platform {board} -o {out}/conv16.xclbin {}", objects.join(" "));
        }
        other => bail!("`{other}` is no compiler of a vendor; expected `aoc` or `v++`"),
    }
    Ok(())
}

fn filter(platform: &str) -> DeviceFilter {
    DeviceFilter { platform: Some(platform.to_owned()), ..DeviceFilter::default() }
}

fn compile(launcher: &Launcher, device: &DeviceFilter) -> Result<Built> {
    let platform = device.platform.as_deref().unwrap_or_default();
    worker::build(launcher, &limits(), device, &lower::source_on(platform))
        .context("could not build the kernels")
}

/// Compilers are slower than devices.
fn limits() -> Limits {
    Limits { start: Duration::from_mins(10), ..Limits::default() }
}

fn launcher(scratch: &Path) -> Result<Launcher> {
    let variables = env::vars_os();
    Ok(Launcher {
        program: env::current_exe().context("could not find this program")?,
        arguments: vec!["worker".into()],
        environment: variables
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        scratch: scratch.to_owned(),
    })
}

/// The key of that file, or a new one, whose public part is written beside it.
fn signing_key(path: &Path) -> Result<SigningKey> {
    if path.exists() {
        let key = SigningKey::from_pem(&fs_err::read_to_string(path)?);
        return key.with_context(|| format!("`{}`", path.display()));
    }
    if let Some(folder) = path.parent() {
        fs_err::create_dir_all(folder)?;
    }
    let key = SigningKey::generate()?;
    let mut options = fs_err::OpenOptions::new();
    fs_err::os::unix::fs::OpenOptionsExt::mode(options.write(true).create_new(true), 0o600);
    options.open(path)?.write_all(key.to_pem().as_bytes())?;
    let public: PathBuf = path.with_extension("pub.pem");
    fs_err::write(&public, key.public().to_pem())?;
    println!("new key       {} (trust {})", path.display(), public.display());
    Ok(key)
}
