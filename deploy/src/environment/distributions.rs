//! The Python distributions in a folder of packages, by what they say of themselves.

use std::{io, path::Path};

/// Descriptions follow the fields, and can be long.
const LONGEST: usize = 64 << 10;

/// A distribution, as its `METADATA` has it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Distribution {
    pub(crate) name: String,
    pub(crate) version: String,
    /// As it was written; an SPDX expression where `Metadata-Version` is new enough.
    pub(crate) licence: Option<String>,
}

impl Distribution {
    pub(crate) fn parse(metadata: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(&metadata[..metadata.len().min(LONGEST)]);
        let fields = text.lines().take_while(|line| !line.trim().is_empty());
        let (mut name, mut version, mut licence, mut expression) = (None, None, None, None);
        for (key, value) in fields.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            let field = match key {
                "Name" => &mut name,
                "Version" => &mut version,
                "License" => &mut licence,
                "License-Expression" => &mut expression,
                _ => continue,
            };
            if !value.is_empty() {
                field.get_or_insert_with(|| value.to_owned());
            }
        }
        Some(Self { name: name?, version: version?, licence: expression.or(licence) })
    }

    /// The name that is the same however it is written.
    pub(crate) fn normal_name(&self) -> String {
        let mut normal = String::with_capacity(self.name.len());
        for c in self.name.chars() {
            match c {
                '-' | '_' | '.' if normal.ends_with('-') => {}
                '-' | '_' | '.' => normal.push('-'),
                c => normal.push(c.to_ascii_lowercase()),
            }
        }
        normal
    }
}

/// All that lie in `site-packages`, by name.
pub(crate) fn installed(site_packages: &Path) -> io::Result<Vec<Distribution>> {
    let mut found = Vec::new();
    for entry in fs_err::read_dir(site_packages)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "dist-info") {
            found.extend(Distribution::parse(&fs_err::read(path.join("METADATA"))?));
        }
    }
    found.sort_unstable_by_key(|own| (own.normal_name(), own.version.clone()));
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_metadata_says_is_read_to_its_description() {
        let text = b"Metadata-Version: 2.4\nName: Ruamel_.yaml\nVersion: 0.1\nLicense: free\n text\nLicense-Expression: MIT\n\nVersion: 9\n";
        let found = Distribution::parse(text).unwrap();
        assert_eq!((found.name.as_str(), found.version.as_str()), ("Ruamel_.yaml", "0.1"));
        assert_eq!(found.licence.as_deref(), Some("MIT"));
        assert_eq!(found.normal_name(), "ruamel-yaml");
        assert_eq!(Distribution::parse(b"Name: x\n\nVersion: 1\n"), None);
    }
}
