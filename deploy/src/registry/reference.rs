//! References to images: `[registry/]repository[:tag][@digest]`, with the defaults that people know from `docker pull`.

use std::{fmt, str::FromStr};

use moorline_core::Digest;
use thiserror::Error;

/// What a reference without a registry means.
pub(super) const DOCKER_HUB: &str = "docker.io";
/// Where Docker Hub keeps images whose repository has one part.
const OFFICIAL: &str = "library/";
/// Of the distribution specification.
const LONGEST_REPOSITORY: usize = 255;
const LONGEST_TAG: usize = 128;

/// The name of an image, with everything that was left out filled in: a registry, a repository, and a tag or a digest
/// or both. It is written out in full.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is not a reference.
#[derive(Debug, Error)]
#[error(
    "`{text}` is not the reference of an image: {why}; one is written `[registry/]repository[:tag][@sha256:…]`"
)]
pub struct ReferenceError {
    text: String,
    why: &'static str,
}

impl Reference {
    /// The image of `digest` in a repository of a registry.
    pub fn to_digest(registry: &str, repository: &str, digest: Digest) -> Result<Self, ReferenceError> {
        format!("{registry}/{repository}@{digest}").parse()
    }

    /// `host` or `host:port`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// `latest` where neither a tag nor a digest was written.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// What a registry is asked for: the digest where there is one, else the tag.
    pub fn version(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.clone().unwrap_or_default(),
        }
    }

    /// The same repository, at exactly this image.
    pub fn at(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same repository, under this tag.
    pub fn tagged(&self, tag: &str) -> Result<Self, ReferenceError> {
        format!("{}/{}:{tag}", self.registry, self.repository).parse()
    }

    /// The same image in another place: `registry[/prefix]` comes before the repository.
    pub fn redirected(&self, place: &str) -> Result<Self, ReferenceError> {
        let own = self.to_string();
        format!("{}{}", place.trim_end_matches('/'), &own[self.registry.len()..]).parse()
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let fail = |why| ReferenceError { text: text.chars().take(400).collect(), why };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = digest.parse().map_err(|_| fail("what follows `@` is no sha256 digest"))?;
                (rest, Some(digest))
            }
            None => (text, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            // The colon of a port comes before a slash.
            Some((before, tag)) if !tag.contains('/') => (before, Some(tag.to_owned())),
            _ => (rest, None),
        };
        if tag.as_deref().is_some_and(|tag| !is_tag(tag)) {
            return Err(fail("what follows `:` is no tag"));
        }
        let is_registry = |part: &str| part == "localhost" || part.contains(['.', ':']);
        let (registry, repository) = match rest.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest.to_owned()),
            Some(_) => (DOCKER_HUB, rest.to_owned()),
            None => (DOCKER_HUB, format!("{OFFICIAL}{rest}")),
        };
        let (registry, repository) = match (registry, repository) {
            ("index.docker.io" | "registry-1.docker.io", repository) => (DOCKER_HUB, repository),
            whole => whole,
        };
        if !is_host(registry) {
            return Err(fail("the registry is no host name with or without a port"));
        }
        if repository.len() > LONGEST_REPOSITORY || !repository.split('/').all(is_part) {
            return Err(fail(
                "a repository has parts of lower-case letters, digits and single `.`, `_`, `__` or dashes between them",
            ));
        }
        let tag = match (&tag, &digest) {
            (None, None) => Some("latest".to_owned()),
            _ => tag,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

fn is_tag(tag: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    (1..=LONGEST_TAG).contains(&tag.len()) && !tag.starts_with(['.', '-']) && tag.chars().all(inner)
}

fn is_host(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (registry, None),
    };
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let sound = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.split('.').all(is_label),
    };
    sound && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

/// Between letters and digits stand one `.`, one or two `_`, or any number of `-`.
fn is_part(part: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = part.split(is_inner).filter(|between| !between.is_empty());
    let sound = |between: &str| matches!(between, "." | "_" | "__") || between.chars().all(|c| c == '-');
    part.starts_with(is_inner) && part.ends_with(is_inner) && separators.into_iter().all(sound)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap_or_else(|error| panic!("{error}")).to_string()
    }

    #[test]
    fn what_is_left_out_is_filled_in_as_docker_does() {
        let digest = Digest::of(b"");
        for (text, expected) in [
            ("python", "docker.io/library/python:latest".to_owned()),
            ("python:3.11-slim", "docker.io/library/python:3.11-slim".to_owned()),
            ("me/app", "docker.io/me/app:latest".to_owned()),
            ("index.docker.io/me/app", "docker.io/me/app:latest".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app:1", "localhost:5000/app:1".to_owned()),
            ("[::1]:5000/app:1", "[::1]:5000/app:1".to_owned()),
            (
                "mcr.microsoft.com/azureml/a__b/c-d.e",
                "mcr.microsoft.com/azureml/a__b/c-d.e:latest".to_owned(),
            ),
            (&format!("x.io/a@{digest}"), format!("x.io/a@{digest}")),
            (&format!("x.io/a:1@{digest}"), format!("x.io/a:1@{digest}")),
        ] {
            assert_eq!(full(text), expected);
            assert_eq!(full(&expected), expected, "a full reference stays as it is");
        }
    }

    #[test]
    fn what_is_no_reference_says_why() {
        for text in [
            "",
            "A",
            "a/",
            "/a",
            "a//b",
            "a:",
            "a:-x",
            "a:b:c",
            "a@sha256:12",
            "a@md5:00",
            "x.io:99999/a",
            "-x.io/a",
            "a..b",
            "a___b",
            "x.io/../a",
            "a b",
        ] {
            let error = text.parse::<Reference>().expect_err(text).to_string();
            assert!(error.contains(&format!("`{text}` is not the reference of an image: ")), "{error}");
        }
    }

    #[test]
    fn a_mirror_takes_the_place_of_the_registry() {
        let reference: Reference = "mcr.microsoft.com/azureml/base:1".parse().unwrap();
        assert_eq!(
            reference.redirected("localhost:5000").unwrap().to_string(),
            "localhost:5000/azureml/base:1"
        );
        assert_eq!(
            reference.redirected("localhost:5000/mcr/").unwrap().to_string(),
            "localhost:5000/mcr/azureml/base:1"
        );
    }
}
