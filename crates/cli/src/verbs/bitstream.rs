//! `moorline bitstream`: the files with kernels for FPGAs, as they lie on this machine.

use std::{collections::BTreeMap, path::PathBuf, time::SystemTime};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use moorline_fpga::bitstream::{
    Bitstream, Compiled, DeviceClass, ImageTarget, PublicKey, SigningKey, Unverified, pack,
};
use serde_json::{Value, json};

use crate::{
    exit::Explained,
    output::{Columns, Printing},
};

const COLUMNS: Columns = Columns(&[
    ("Id", "id"),
    ("Version", "version"),
    ("Architecture", "arch.name"),
    ("Signed by", "signed_by"),
    ("Expires", "expires"),
]);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a bitstream of another one and an image more, as a vendor's compiler made it of the same kernels
    #[command(after_help = "Examples:\n  \
        moorline bitstream create --from pocl.fbit --image conv16.xclbin --platform Xilinx --board xilinx_u250_gen3x16_xdma_4_1 --interface-uuid 1a2b3c --key key.pem --out u250.fbit\n  \
        moorline bitstream create --from pocl.fbit --image conv16.bin --platform \"Portable Computing Language\" --device cpu --driver 5.0 --class emulation --key key.pem --out other.fbit")]
    Create(Box<Create>),
    /// Show what a bitstream says of itself; this proves nothing of who made it
    #[command(after_help = "Examples:\n  moorline bitstream show pocl.fbit -o json\n  \
        moorline bitstream show pocl.fbit --query \"images[].target\"")]
    Show {
        /// The bitstream
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        printing: Printing,
    },
    /// Check a bitstream: its signature by a trusted key, every digest, and what its manifest promises
    #[command(after_help = "Example:\n  moorline bitstream verify pocl.fbit --trusted-key key.pub.pem")]
    Verify {
        /// The bitstream
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        trusted: Trusted,
        #[command(flatten)]
        printing: Printing,
    },
}

/// Who may have signed.
#[derive(Debug, Args)]
pub(crate) struct Trusted {
    /// The file with a public key that is trusted (Ed25519, PEM); may be repeated
    #[arg(long, value_name = "FILE", required = true)]
    trusted_key: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The bitstream whose kernels, operators and golden tests are taken over; signed by --key or by a trusted key
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// The image: an .aocx, an .xclbin, or what another driver gave as a binary
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// The name of the OpenCL platform, as `moorline device list` shows it
    #[arg(long, value_name = "NAME")]
    platform: String,
    /// The board, by the name of its device
    #[arg(long, value_name = "NAME", requires = "interface_uuid", required_unless_present = "device")]
    board: Option<String>,
    /// The interface of the board's shell that the image was made for
    #[arg(long, value_name = "UUID", requires = "board")]
    interface_uuid: Option<String>,
    /// The device, where the image is for one device under one driver and not for a board
    #[arg(long, value_name = "NAME", requires_all = ["driver", "class"], conflicts_with = "board")]
    device: Option<String>,
    /// The version of that driver
    #[arg(long, value_name = "VERSION", requires = "device")]
    driver: Option<String>,
    /// Whether that device is made for it, or emulates one
    #[arg(long, requires = "device")]
    class: Option<Class>,
    /// A variable that the driver must find; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = crate::document::pair)]
    env: Vec<(String, String)>,
    /// The version of the new bitstream [default: the other's]
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,
    /// The moment from which it is no longer taken, as 2027-12-31T00:00:00Z [default: the other's]
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// The file with the key that signs it (Ed25519, PEM)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The file with a public key that may have signed the other one; may be repeated
    #[arg(long, value_name = "FILE")]
    trusted_key: Vec<PathBuf>,
    /// The file to write; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Class {
    Hardware,
    Emulation,
}

impl From<Class> for DeviceClass {
    fn from(class: Class) -> Self {
        match class {
            Class::Hardware => Self::Hardware,
            Class::Emulation => Self::Emulation,
        }
    }
}

pub(crate) fn run(verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Create(create) => self::create(*create),
        Verb::Show { file, printing } => {
            let bitstream = Unverified::read(fs_err::File::open(&file)?).with_context(|| of(&file))?;
            printing.print(told(&bitstream)?, COLUMNS)
        }
        Verb::Verify { file, trusted, printing } => {
            let keys = keys(&trusted.trusted_key)?;
            let bitstream = open(&file, &keys)?;
            printing.print(told(&bitstream)?, COLUMNS)
        }
    }
}

fn of(file: &std::path::Path) -> String {
    format!("`{}`", file.display())
}

fn keys(files: &[PathBuf]) -> anyhow::Result<Vec<PublicKey>> {
    files
        .iter()
        .map(|file| PublicKey::from_pem(&fs_err::read_to_string(file)?).with_context(|| of(file)))
        .collect()
}

fn open(file: &std::path::Path, keys: &[PublicKey]) -> anyhow::Result<Bitstream> {
    let now = SystemTime::now().try_into().context("the clock shows no time that can be told")?;
    Bitstream::open(fs_err::File::open(file)?, keys, now).with_context(|| of(file))
}

/// The manifest, and who the signature says to be from.
fn told(bitstream: &Unverified) -> anyhow::Result<Value> {
    let mut told = serde_json::to_value(bitstream.manifest())?;
    told["signed_by"] = json!(bitstream.signer());
    Ok(told)
}

fn create(create: Create) -> anyhow::Result<()> {
    if create.out.exists() {
        return Err(Explained::new(format!("{} exists", of(&create.out)))
            .hint("a bitstream is never changed: choose another name, or remove it")
            .into());
    }
    let key = SigningKey::from_pem(&fs_err::read_to_string(&create.key)?).with_context(|| of(&create.key))?;
    let mut trusted = keys(&create.trusted_key)?;
    trusted.push(key.public());
    let from = open(&create.from, &trusted)?;
    let (platform, binary) = (create.platform, fs_err::read(&create.image)?);
    let (class, target) = match (create.board, create.device) {
        (Some(board), _) => {
            let interface_uuid = create.interface_uuid.unwrap_or_default();
            (DeviceClass::Hardware, ImageTarget::Board { platform, board, interface_uuid })
        }
        (None, device) => {
            let device = device.unwrap_or_default();
            let driver = create.driver.unwrap_or_default();
            let class = create.class.map_or(DeviceClass::Emulation, DeviceClass::from);
            (class, ImageTarget::Device { platform, driver, device })
        }
    };
    let env = BTreeMap::from_iter(create.env);
    let (mut manifest, files) = from.with_image(Compiled { binary, class, target, env })?;
    if let Some(version) = create.version {
        manifest.version = version;
    }
    if let Some(expires) = create.expires {
        manifest.expires = Some(expires.parse().with_context(|| format!("`{expires}` is no time"))?);
    }
    let mut bytes = Vec::new();
    pack(&manifest, &files, &key, &mut bytes)?;
    // Read back as a worker will, so that what is refused is refused here.
    let made = Unverified::read(&bytes[..])?;
    fs_err::write(&create.out, &bytes)?;
    create.printing.print(told(&made)?, COLUMNS)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(subcommand)]
        verb: super::Verb,
    }

    fn parse(line: &str) -> Result<Line, clap::Error> {
        Line::try_parse_from(std::iter::once("bitstream").chain(line.split_whitespace()))
    }

    const COMMON: &str = "create --from a.fbit --image i --platform p --key k --out o";

    #[test]
    fn an_image_is_for_a_board_or_for_a_device() {
        parse(&format!("{COMMON} --board b --interface-uuid u")).unwrap();
        parse(&format!("{COMMON} --device d --driver 1 --class hardware")).unwrap();
        for wrong in ["", "--board b", "--device d", "--device d --driver 1", "--interface-uuid u"] {
            assert!(parse(&format!("{COMMON} {wrong}")).is_err(), "{wrong}");
        }
        assert!(parse(&format!("{COMMON} --board b --interface-uuid u --class emulation")).is_err());
        assert!(parse("verify a.fbit").is_err(), "nobody is trusted by default");
    }
}
