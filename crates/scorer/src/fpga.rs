//! The engine of FPGAs, made from the settings: a bitstream that is trusted, a device that is leased, and what runs the
//! rest of a model.

use std::{path::Path, sync::Arc};

use moorline_core::{Engine, Name};

use crate::settings::{Environment, Settings};

#[cfg(feature = "fpga")]
pub(crate) fn engine(
    settings: &Settings,
    bitstream: &Path,
    release: &Name,
    host: Arc<dyn Engine>,
    environment: &Environment,
    metrics: &moorline_serve::Metrics,
) -> anyhow::Result<Arc<dyn Engine>> {
    use moorline_fpga::{engine::OpenClEngine, metrics::Metrics};

    let options = &settings.fpga;
    let plan = plan_options(options)?;
    let executor = executor(options, bitstream, release.to_string(), environment)?;
    let (registry, labels) = metrics.registry();
    let executor = executor.observed(Arc::new(Metrics::register(registry, &labels)?));
    let device = executor.device();
    tracing::info!(
        device = %device.id(),
        device_class = device.class.as_str(),
        bitstream = %executor.bitstream().manifest().id,
        version = %executor.bitstream().manifest().version,
        "a device is leased"
    );
    Ok(Arc::new(OpenClEngine::new(Arc::new(executor), host, plan)))
}

/// What plans are made for.
#[cfg(feature = "fpga")]
pub(crate) fn plan_options(
    options: &crate::settings::FpgaOptions,
) -> anyhow::Result<moorline_fpga::plan::PlanOptions> {
    use anyhow::{Context, ensure};
    use moorline_fpga::plan::PlanOptions;

    let is_share = |share: &f64| (0.0..=1.0).contains(share);
    ensure!(
        is_share(&options.min_coverage),
        "--fpga-min-coverage is {}, and a share is between 0 and 1",
        options.min_coverage
    );
    ensure!(
        options.min_agreement.as_ref().is_none_or(is_share),
        "--fpga-min-agreement is {}, and a share is between 0 and 1",
        options.min_agreement.unwrap_or_default()
    );
    Ok(PlanOptions {
        min_coverage: options.min_coverage,
        min_agreement: options.min_agreement,
        numerics: options.numerics.as_deref().map(str::parse).transpose().context("--fpga-numerics")?,
        ..PlanOptions::default()
    })
}

/// A device that the options admit, leased and with the bitstream in it.
#[cfg(feature = "fpga")]
pub(crate) fn executor(
    options: &crate::settings::FpgaOptions,
    bitstream: &Path,
    holder: String,
    environment: &Environment,
) -> anyhow::Result<moorline_fpga::worker::Executor> {
    use anyhow::Context;
    use moorline_fpga::{
        bitstream::{Bitstream, PublicKey},
        lease::{Leases, Quarantine},
        worker::{Executor, ExecutorSettings, Launcher, Limits},
    };

    let key = |text: &String| -> anyhow::Result<PublicKey> {
        if text.trim_start().starts_with("-----BEGIN") {
            return PublicKey::from_pem(text).context("a trusted key cannot be read");
        }
        let pem = fs_err::read_to_string(text)?;
        PublicKey::from_pem(&pem).with_context(|| format!("`{text}` holds no public key"))
    };
    let trusted = options.trusted_keys.iter().map(key).collect::<Result<Vec<_>, _>>()?;
    let file = fs_err::File::open(bitstream)?;
    let opened = Bitstream::open(std::io::BufReader::new(file), &trusted, jiff::Timestamp::now());
    let opened = opened.with_context(|| format!("the bitstream `{}` cannot be used", bitstream.display()))?;
    let scratch = std::env::temp_dir();
    let leases = options.leases.clone().unwrap_or_else(|| scratch.join("moorline-fpga"));
    fs_err::create_dir_all(&leases)?;
    let (program, mut arguments) = own_command().context("could not find this program's own file")?;
    arguments.push("fpga-worker".into());
    let executor = Executor::start(
        ExecutorSettings {
            launcher: Launcher { program, arguments, environment: environment.clone().into_map(), scratch },
            limits: Limits::default(),
            device: filter(&options.device)?,
            rebuild: options.rebuild,
            leases: Leases::new(leases),
            quarantine: Quarantine::default(),
            holder,
        },
        Arc::new(opened),
    )?;
    Ok(executor)
}

/// How this program was started: by its own file, or in an image by a loader, whose arguments it was.
#[cfg(feature = "fpga")]
fn own_command() -> std::io::Result<(std::path::PathBuf, Vec<std::ffi::OsString>)> {
    use std::{ffi::OsString, os::unix::ffi::OsStringExt};

    let program = std::env::current_exe()?;
    let own = std::env::args_os().next().unwrap_or_default();
    let whole = fs_err::read("/proc/self/cmdline")?;
    let mut words = whole.split(|byte| *byte == 0).map(|word| OsString::from_vec(word.to_vec()));
    // The kernel's list of words begins with the loader, and what the program sees with its own name.
    let before: Vec<OsString> = words.by_ref().take_while(|word| *word != own).collect();
    let mut arguments: Vec<OsString> = before.into_iter().skip(1).collect();
    if !arguments.is_empty() {
        arguments.push(own);
    }
    Ok((program, arguments))
}

/// Reads `key=value` pairs.
#[cfg(feature = "fpga")]
fn filter(pairs: &[String]) -> anyhow::Result<moorline_fpga::device::DeviceFilter> {
    use anyhow::bail;
    use moorline_fpga::{bitstream::DeviceClass, device::DeviceFilter};

    let mut filter = DeviceFilter::default();
    for pair in pairs {
        match pair.split_once('=') {
            Some(("platform", text)) => filter.platform = Some(text.to_owned()),
            Some(("name", text)) => filter.name = Some(text.to_owned()),
            Some(("index", text)) if text.parse::<u32>().is_ok() => filter.index = text.parse().ok(),
            Some(("class", "hardware")) => filter.class = Some(DeviceClass::Hardware),
            Some(("class", "emulation")) => filter.class = Some(DeviceClass::Emulation),
            _ => bail!(
                "--fpga-device has `{pair}`; it is made of platform=…, name=…, index=N and class=hardware or class=emulation"
            ),
        }
    }
    Ok(filter)
}

/// A build without the feature says so where the engine would be.
#[cfg(not(feature = "fpga"))]
pub(crate) fn engine(
    _settings: &Settings,
    _bitstream: &Path,
    _release: &Name,
    _host: Arc<dyn Engine>,
    _environment: &Environment,
    _metrics: &moorline_serve::Metrics,
) -> anyhow::Result<Arc<dyn Engine>> {
    anyhow::bail!(
        "a bitstream is named, and this build of the scorer has no engine for FPGAs: take the one that loads libraries"
    )
}

#[cfg(all(test, feature = "fpga"))]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_made_of_pairs() {
        let read = |text: &str| filter(&text.split(',').map(str::to_owned).collect::<Vec<_>>());
        let filter = read("platform=Portable,name=pthread,index=0,class=emulation").unwrap();
        assert_eq!(filter.to_string(), "platform `Portable`, name `pthread`, index 0, class emulation");
        for wrong in ["gpu", "class=fast", "index=first", "vendor=x"] {
            assert!(read(wrong).unwrap_err().to_string().contains(wrong), "{wrong}");
        }
    }
}
