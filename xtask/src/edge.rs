//! `cargo xtask edge package`: what is installed on a device, as an archive and as a Debian package for this machine's
//! architecture. The same files give the same bytes.

use std::{
    env::consts::ARCH,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Subcommand;
use flate2::{Compression, GzBuilder};

use crate::{Workspace, shell};

/// What can be done for devices here.
#[derive(Debug, Subcommand)]
pub enum Edge {
    /// Build the agent and the scorer, and pack them as tar.gz and .deb.
    Package(Package),
}

/// Where it is packed to.
#[derive(Debug, clap::Args)]
pub struct Package {
    /// The folder for the packages. Default: `target/edge`.
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
}

const NAME: &str = "moorline-edge";
/// Run when the package was unpacked. A machine without systemd has no unit to tell it of.
const AFTER_INSTALL: &str = "#!/bin/sh\nset -e\nif command -v systemd-sysusers >/dev/null; then systemd-sysusers moorline-edge.conf; fi\n\
                             if [ -d /run/systemd/system ]; then systemctl daemon-reload; fi\n";

/// A file of a package: its place, its bytes, its mode.
#[derive(Debug)]
struct File {
    path: String,
    bytes: Vec<u8>,
    mode: u32,
}

pub fn run(workspace: &Workspace, verb: &Edge) -> Result<()> {
    let Edge::Package(package) = verb;
    let out = package.out.clone().unwrap_or_else(|| workspace.target().join("edge"));
    shell::run(&mut workspace.cargo(&["build", "--release", "-p", NAME, "-p", "moorline-scorer", "--bins"]))?;
    fs_err::create_dir_all(&out)?;
    let version = env!("CARGO_PKG_VERSION");
    let files = files(workspace.root(), |name| workspace.binary(name))?;
    for (name, bytes) in [
        (format!("{NAME}-{version}-{ARCH}.tar.gz"), archive(&files)?),
        (format!("{NAME}_{version}_{}.deb", debian_architecture()), debian(&files, version)?),
    ] {
        let path = out.join(name);
        fs_err::write(&path, bytes)?;
        shell::say(&path.display().to_string());
    }
    Ok(())
}

fn files(root: &Path, binary: impl Fn(&str) -> PathBuf) -> Result<Vec<File>> {
    let packaging = root.join("edge/packaging");
    let sources = [
        ("usr/bin/moorline-edge", binary("moorline-edge"), 0o755),
        ("usr/bin/moorline-scorer", binary("moorline-scorer"), 0o755),
        ("usr/lib/systemd/system/moorline-edge.service", packaging.join("moorline-edge.service"), 0o644),
        ("usr/lib/sysusers.d/moorline-edge.conf", packaging.join("moorline-edge.sysusers"), 0o644),
        ("usr/share/doc/moorline-edge/LICENSE-APACHE", root.join("LICENSE-APACHE"), 0o644),
        ("usr/share/doc/moorline-edge/LICENSE-MIT", root.join("LICENSE-MIT"), 0o644),
    ];
    sources
        .into_iter()
        .map(|(path, source, mode)| Ok(File { path: path.to_owned(), bytes: fs_err::read(source)?, mode }))
        .collect()
}

fn debian_architecture() -> &'static str {
    match ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "i386",
        "arm" => "armhf",
        other => other,
    }
}

/// A tar.gz with no time, owner or place of the machine that made it.
fn archive(files: &[File]) -> Result<Vec<u8>> {
    let gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    let mut tar = tar::Builder::new(gzip);
    let mut folders: Vec<String> = Vec::new();
    for file in files {
        for (at, _) in file.path.match_indices('/') {
            let folder = format!("{}/", &file.path[..at]);
            if !folders.contains(&folder) {
                append(&mut tar, &folder, &[], 0o755, tar::EntryType::Directory)?;
                folders.push(folder);
            }
        }
        append(&mut tar, &file.path, &file.bytes, file.mode, tar::EntryType::Regular)?;
    }
    tar.into_inner()?.finish().context("could not compress")
}

fn append(
    tar: &mut tar::Builder<impl std::io::Write>,
    path: &str,
    bytes: &[u8],
    mode: u32,
    kind: tar::EntryType,
) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes.len() as u64);
    header.set_mtime(0);
    // As Debian's tools write them.
    tar.append_data(&mut header, format!("./{path}"), bytes).with_context(|| format!("could not pack {path}"))
}

fn debian(files: &[File], version: &str) -> Result<Vec<u8>> {
    let kilobytes = files.iter().map(|file| file.bytes.len().div_ceil(1024)).sum::<usize>();
    let control = format!(
        "Package: {NAME}\nVersion: {version}\nArchitecture: {}\nMaintainer: The Moorline authors <moorline@localhost>\n\
         Installed-Size: {kilobytes}\nDepends: libc6\nSection: science\nPriority: optional\n\
         Description: Runs Moorline releases as modules of a device\n The agent of a device and the scorer that its modules are served by.\n",
        debian_architecture()
    );
    let file =
        |path: &str, text: &str, mode| File { path: path.to_owned(), bytes: text.as_bytes().to_vec(), mode };
    let control = archive(&[file("control", &control, 0o644), file("postinst", AFTER_INSTALL, 0o755)])?;
    let mut deb = b"!<arch>\n".to_vec();
    for (name, bytes) in
        [("debian-binary", b"2.0\n".to_vec()), ("control.tar.gz", control), ("data.tar.gz", archive(files)?)]
    {
        writeln!(deb, "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`", 0, 0, 0, "100644", bytes.len())?;
        deb.extend_from_slice(&bytes);
        if bytes.len() % 2 == 1 {
            deb.push(b'\n');
        }
    }
    Ok(deb)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn stand_ins() -> Vec<File> {
        let folder = tempfile::tempdir().unwrap();
        let binary = folder.path().join("binary");
        fs_err::write(&binary, "#!/bin/sh\n").unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        files(root, |_| binary.clone()).unwrap()
    }

    #[test]
    fn the_same_files_give_the_same_packages() {
        let (first, second) = (stand_ins(), stand_ins());
        assert_eq!(archive(&first).unwrap(), archive(&second).unwrap());
        let deb = debian(&first, "1.2.3").unwrap();
        assert_eq!(deb, debian(&second, "1.2.3").unwrap());
        assert!(
            deb.starts_with(b"!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n")
        );
    }

    #[test]
    fn debians_own_tool_reads_the_package() {
        if shell::find("dpkg-deb").is_none() {
            shell::say("SKIPPED: dpkg-deb is not on PATH");
            assert!(std::env::var_os("CI").is_none_or(|value| value != "true"), "CI must not skip a test");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.deb");
        fs_err::write(&path, debian(&stand_ins(), "1.2.3").unwrap()).unwrap();
        let fields = shell::output(Command::new("dpkg-deb").arg("--field").arg(&path)).unwrap();
        assert!(
            fields.contains("Package: moorline-edge\n") && fields.contains("Version: 1.2.3\n"),
            "{fields}"
        );
        let root = folder.path().join("root");
        shell::output(Command::new("dpkg-deb").arg("--extract").arg(&path).arg(&root)).unwrap();
        let unit = fs_err::read_to_string(root.join("usr/lib/systemd/system/moorline-edge.service")).unwrap();
        assert!(unit.contains("ExecStart=/usr/bin/moorline-edge run"));
        let listed = shell::output(Command::new("dpkg-deb").arg("--contents").arg(&path)).unwrap();
        assert!(listed.contains("-rwxr-xr-x root/root") || listed.contains("-rwxr-xr-x 0/0"), "{listed}");
    }
}
