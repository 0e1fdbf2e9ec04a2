//! Platforms: which of the images of an index is meant.

use std::{fmt, str::FromStr};

use oci_spec::image::{Descriptor, ImageIndex};
use thiserror::Error;

/// Which images of an index are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    All,
    One(Platform),
}

/// An operating system and a processor, in Go's words: `linux/amd64`, `linux/arm/v7`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    pub variant: Option<String>,
}

/// A text that is not a platform.
#[derive(Debug, Error)]
#[error("`{0}` is not a platform; one is written `os/architecture[/variant]`, as in `linux/amd64`")]
pub struct PlatformError(String);

impl Platform {
    pub fn linux(architecture: &str) -> Self {
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant: None }
    }

    /// The manifest of this platform: the first whose variant is the one that was asked for, or where none was, the
    /// first of the architecture.
    pub fn choose<'a>(&self, index: &'a ImageIndex) -> Option<&'a Descriptor> {
        index.manifests().iter().find(|descriptor| {
            descriptor.platform().as_ref().is_some_and(|platform| {
                self.suits(
                    &platform.os().to_string(),
                    &platform.architecture().to_string(),
                    platform.variant().as_deref(),
                )
            })
        })
    }

    /// Whether an image that says this of itself is of this platform.
    pub(super) fn suits(&self, os: &str, architecture: &str, variant: Option<&str>) -> bool {
        // All processors of `arm64` are `v8` to those who leave it out.
        fn usual<'a>(architecture: &str, variant: Option<&'a str>) -> Option<&'a str> {
            variant.filter(|variant| !(variant.is_empty() || architecture == "arm64" && *variant == "v8"))
        }
        os == self.os
            && architecture == self.architecture
            && self
                .variant
                .as_deref()
                .is_none_or(|wanted| usual(architecture, Some(wanted)) == usual(architecture, variant))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let sound = |part: &&str| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(sound) {
            return Err(PlatformError(text.chars().take(100).collect()));
        }
        Ok(Self {
            os: parts[0].to_owned(),
            architecture: parts[1].to_owned(),
            variant: parts.get(2).map(|&variant| variant.to_owned()),
        })
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_without_a_variant_takes_any() {
        let any: Platform = "linux/arm64".parse().unwrap();
        assert!(any.suits("linux", "arm64", Some("v8")) && any.suits("linux", "arm64", None));
        assert!(!any.suits("windows", "arm64", None) && !any.suits("linux", "arm", Some("v7")));
        let v8: Platform = "linux/arm64/v8".parse().unwrap();
        assert!(v8.suits("linux", "arm64", None), "v8 is what arm64 means");
        let v7: Platform = "linux/arm/v7".parse().unwrap();
        assert_eq!(v7.to_string(), "linux/arm/v7");
        assert!(!v7.suits("linux", "arm", Some("v6")) && !v7.suits("linux", "arm", None));
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in ["", "linux", "linux/", "a/b/c/d", "li nux/amd64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }
}
