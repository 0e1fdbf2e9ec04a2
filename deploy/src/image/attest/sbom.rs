//! What an image is made of, as an SPDX 2.3 document.

use std::{io, path::Path};

use moorline_core::{Digest, FileEntry, Release};
use serde_json::{Value, json};

use super::installed::{self, Package};
use crate::{environment, image::Filesystem};

/// A document is the same whenever it is made, so that it has no time of its own.
const CREATED: &str = "1970-01-01T00:00:00Z";
const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const UNKNOWN: &str = "NOASSERTION";
/// Licences whose names people write as SPDX has them; any other text is given as it was found, and not as a licence.
const LICENCES: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "GPL-2.0-only",
    "ISC",
    "LGPL-3.0-only",
    "MIT",
    "MPL-2.0",
    "PSF-2.0",
    "Unlicense",
    "Zlib",
];

/// What is known of an image's contents.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// What people call the image: `registry/repository`.
    pub name: &'a str,
    /// Of its manifest.
    pub digest: &'a Digest,
    pub release: &'a Release,
    /// The base's files, which say what packages it has; `None` where the scorer stands on nothing.
    pub base: Option<&'a Filesystem>,
    /// The base's reference and digest.
    pub base_reference: Option<(&'a str, &'a Digest)>,
    /// [`LayerTree::root`](crate::environment::LayerTree) where there is an environment layer.
    pub environment: Option<&'a Path>,
    /// The scorer's version; `None` where the image runs a server of its own.
    pub scorer: Option<&'a str>,
    /// The version of the ONNX Runtime library where there is a layer with it, as far as it is known.
    pub onnxruntime: Option<&'a str>,
    /// The version of Moorline that writes this.
    pub version: &'a str,
}

/// The document's bytes: the same for the same contents. Blocks.
pub fn sbom(contents: &Contents<'_>) -> io::Result<Vec<u8>> {
    let Contents { name, digest, release, .. } = *contents;
    let mut document = Document::default();
    let image =
        document.add(Part { version: Some(digest.to_string()), purpose: "CONTAINER", ..Part::new(name) });
    document.relate(DOCUMENT, "DESCRIBES", &image);
    document.packages[0]["checksums"] = checksum(digest);

    if contents.base.is_some() || contents.base_reference.is_some() {
        let (reference, digest) = contents.base_reference.unzip();
        let part = Part {
            version: digest.map(ToString::to_string),
            purpose: "CONTAINER",
            ..Part::new(reference.unwrap_or("base"))
        };
        let base = document.within(&image, part);
        for package in contents.base.map(installed::packages).unwrap_or_default() {
            document.within(&base, Part::of(package));
        }
    }
    if let Some(root) = contents.environment {
        let environment =
            document.within(&image, Part { purpose: "APPLICATION", ..Part::new("environment") });
        for distribution in environment::distributions_of_tree(root)? {
            document.within(&environment, Part::of(Package::of_python(&distribution)));
        }
    }
    let programs = [("moorline-scorer", contents.scorer), ("onnxruntime", contents.onnxruntime)];
    for (name, version) in programs.into_iter().filter_map(|(name, version)| Some((name, version?))) {
        document.within(&image, Part { version: Some(version.to_owned()), ..Part::new(name) });
    }
    let part = Part {
        version: Some(release.digest().to_string()),
        purpose: "APPLICATION",
        ..Part::new(release.name.as_str())
    };
    let of_release = document.within(&image, part);
    if let Some(model) = &release.model {
        let part =
            Part { version: Some(model.version.clone()), purpose: "OTHER", ..Part::new(model.name.as_str()) };
        let of_model = document.within(&of_release, part);
        document.files(&of_model, Release::MODEL_DIR, &model.files);
    }
    if let Some(code) = &release.code {
        let of_code =
            document.within(&of_release, Part { purpose: "SOURCE", ..Part::new(Release::CODE_DIR) });
        document.files(&of_code, Release::CODE_DIR, &code.files);
    }
    let text = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": DOCUMENT,
        "name": name,
        "documentNamespace": format!("https://spdx.org/spdxdocs/moorline-{}", digest.hex()),
        "creationInfo": { "created": CREATED, "creators": [format!("Tool: moorline-{}", contents.version)] },
        "packages": document.packages,
        "relationships": document.relationships,
    });
    Ok(text.to_string().into_bytes())
}

/// A package of the document.
struct Part {
    name: String,
    version: Option<String>,
    purpose: &'static str,
    url: Option<String>,
    licence: Option<String>,
    sha256: Option<Digest>,
}

impl Part {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            version: None,
            purpose: "LIBRARY",
            url: None,
            licence: None,
            sha256: None,
        }
    }

    fn of(package: Package) -> Self {
        let Package { name, version, url, licence } = package;
        Self { version: Some(version), url: Some(url), licence, ..Self::new(&name) }
    }
}

#[derive(Default)]
struct Document {
    packages: Vec<Value>,
    relationships: Vec<Value>,
}

impl Document {
    /// Gives the part's id.
    fn add(&mut self, part: Part) -> String {
        let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-');
        let readable: String = part.name.chars().map(|c| if sound(c) { c } else { '-' }).collect();
        let id = format!("SPDXRef-Package-{}-{readable}", self.packages.len());
        let declared = part.licence.as_deref().filter(|licence| is_expression(licence));
        let mut package = json!({
            "SPDXID": id,
            "name": part.name,
            "downloadLocation": UNKNOWN,
            "filesAnalyzed": false,
            "licenseConcluded": UNKNOWN,
            "licenseDeclared": declared.unwrap_or(UNKNOWN),
            "copyrightText": UNKNOWN,
            "supplier": UNKNOWN,
            "primaryPackagePurpose": part.purpose,
        });
        if let Some(version) = part.version {
            package["versionInfo"] = json!(version);
        }
        if let Some(licence) = part.licence.as_ref().filter(|_| declared.is_none()) {
            package["licenseComments"] = json!(format!("the package says: {licence}"));
        }
        if let Some(digest) = &part.sha256 {
            package["checksums"] = checksum(digest);
        }
        if let Some(url) = part.url {
            package["externalRefs"] = json!([{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": url,
            }]);
        }
        self.packages.push(package);
        id
    }

    fn within(&mut self, whole: &str, part: Part) -> String {
        let id = self.add(part);
        self.relate(whole, "CONTAINS", &id);
        id
    }

    /// Files are packages here: SPDX wants a SHA-1 of what it calls a file.
    fn files(&mut self, whole: &str, folder: &str, files: &[FileEntry]) {
        for file in files {
            let name = format!("{folder}/{}", file.path);
            self.within(whole, Part { purpose: "FILE", sha256: Some(file.sha256), ..Part::new(&name) });
        }
    }

    fn relate(&mut self, from: &str, how: &str, to: &str) {
        self.relationships.push(json!({
            "spdxElementId": from,
            "relationshipType": how,
            "relatedSpdxElement": to,
        }));
    }
}

fn checksum(digest: &Digest) -> Value {
    json!([{ "algorithm": "SHA256", "checksumValue": digest.hex() }])
}

/// `MIT`, `MIT OR Apache-2.0`.
fn is_expression(licence: &str) -> bool {
    let mut parts = licence.split_whitespace();
    let mut joined = true;
    let sound = parts.by_ref().all(|part| {
        joined = !joined;
        if joined { matches!(part, "AND" | "OR") } else { LICENCES.contains(&part) }
    });
    sound && !joined
}
