//! What packages an image's base has, by the lists of its distribution's package manager and of Python.

use std::fmt::Write as _;

use crate::{environment::Distribution, image::Filesystem};

const DPKG: &str = "var/lib/dpkg/status";
/// One file a package, in images that have no package manager.
const DPKG_PARTS: &str = "var/lib/dpkg/status.d/";
const APK: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];
const OS_RELEASE: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// A package and its name in the package URL scheme.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Package {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) url: String,
    pub(super) licence: Option<String>,
}

impl Package {
    pub(super) fn of_python(distribution: &Distribution) -> Self {
        let (name, version) = (distribution.normal_name(), distribution.version.clone());
        let url = format!("pkg:pypi/{name}@{}", encoded(&version));
        Self { name, version, url, licence: distribution.licence.clone() }
    }
}

/// All that the lists name, in order.
pub(super) fn packages(files: &Filesystem) -> Vec<Package> {
    let distribution = OS_RELEASE.iter().find_map(|path| id(&String::from_utf8_lossy(files.content(path)?)));
    let mut found = Vec::new();
    for (path, content) in files.kept() {
        if path == DPKG || path.starts_with(DPKG_PARTS) {
            let text = String::from_utf8_lossy(content);
            let namespace = distribution.as_deref().unwrap_or("debian");
            found.extend(text.split("\n\n").filter_map(|paragraph| of_debian(paragraph, namespace)));
        } else if APK.contains(&path) {
            let text = String::from_utf8_lossy(content);
            let namespace = distribution.as_deref().unwrap_or("alpine");
            found.extend(text.split("\n\n").filter_map(|paragraph| of_alpine(paragraph, namespace)));
        } else if path.ends_with(".dist-info/METADATA") {
            found.extend(Distribution::parse(content).map(|own| Package::of_python(&own)));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

fn of_debian(paragraph: &str, namespace: &str) -> Option<Package> {
    let field = |name: &str| {
        paragraph
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
    };
    // What was removed can leave its settings, and stays in the list.
    if field("Status").is_some_and(|status| !status.ends_with(" installed")) {
        return None;
    }
    let (name, version) = (field("Package")?, field("Version")?);
    let architecture =
        field("Architecture").map(|own| format!("?arch={}", encoded(&own))).unwrap_or_default();
    let url = format!("pkg:deb/{namespace}/{}@{}{architecture}", encoded(&name), encoded(&version));
    Some(Package { name, version, url, licence: None })
}

fn of_alpine(paragraph: &str, namespace: &str) -> Option<Package> {
    let field = |key: &str| {
        paragraph.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::to_owned))
    };
    let (name, version) = (field("P")?, field("V")?);
    let architecture = field("A").map(|own| format!("?arch={}", encoded(&own))).unwrap_or_default();
    let url = format!("pkg:apk/{namespace}/{}@{}{architecture}", encoded(&name), encoded(&version));
    Some(Package { name, version, url, licence: field("L") })
}

/// `debian` of `ID=debian`.
fn id(os_release: &str) -> Option<String> {
    let id = os_release.lines().find_map(|line| line.strip_prefix("ID="))?.trim_matches('"').to_owned();
    (!id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))).then_some(id)
}

/// As a part of a package URL.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' => encoded.push(byte as char),
            _ => {
                // Writing to a string does not fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_their_urls() {
        let text =
            "Package: libstdc++6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:12.2.0-14";
        let package = of_debian(text, "debian").unwrap();
        assert_eq!(package.url, "pkg:deb/debian/libstdc%2B%2B6@1%3A12.2.0-14?arch=amd64");
        assert_eq!(of_debian(&text.replace("ok installed", "ok config-files"), "debian"), None);
        let package = of_alpine("C:Q1\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT", "alpine").unwrap();
        assert_eq!(package.url, "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64");
        assert_eq!(package.licence.as_deref(), Some("MIT"));
        assert_eq!(id("NAME=x\nID=\"ubuntu\"\n").as_deref(), Some("ubuntu"));
    }
}
