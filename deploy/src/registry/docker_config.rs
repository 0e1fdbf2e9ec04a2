//! The credentials that Docker keeps: its `config.json`, and the programs that it names to keep them elsewhere.
//!
//! Read here and not by the crate `docker_credential`, which takes its environment from the process, waits for a helper
//! without a bound, and puts what the helper printed into its errors.
//!
//! Source: Docker's documentation of `docker login`, "Credential stores", and of `config.json`.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use moorline_core::Secret;
use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use super::{Credentials, RegistryError, reference::DOCKER_HUB};

const LONGEST_CONFIG: u64 = 4 << 20;
const LONGEST_ANSWER: u64 = 64 * 1024;
/// A helper may ask a person for a password of a key ring.
const HELPER_PATIENCE: Duration = Duration::from_secs(30);
/// What Docker calls Docker Hub in its settings.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// The part of `config.json` that is about credentials.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DockerConfig {
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// The credentials that Docker has for a registry.
pub(super) async fn credentials(
    host: &str,
    environment: &BTreeMap<String, String>,
) -> Result<Option<Credentials>, RegistryError> {
    let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let folder = match (set("DOCKER_CONFIG"), set("HOME")) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, Some(home)) => Path::new(home).join(".docker"),
        (None, None) => return Ok(None),
    };
    let path = folder.join("config.json");
    let reading = path.clone();
    let config = tokio::task::spawn_blocking(move || read(&reading)).await?;
    let Some(config) = config.map_err(|source| RegistryError::DockerConfig { path, source })? else {
        return Ok(None);
    };
    let helper = config.cred_helpers.iter().find(|(key, _)| names(key, host)).map(|(_, helper)| helper);
    if let Some(helper) = helper.or(config.creds_store.as_ref()).filter(|helper| !helper.is_empty())
        && let Some(found) = ask(helper, host, environment).await?
    {
        return Ok(Some(found));
    }
    Ok(config.auths.iter().filter(|(key, _)| names(key, host)).find_map(|(_, auth)| auth.credentials()))
}

fn read(path: &Path) -> io::Result<Option<DockerConfig>> {
    let file = match fs_err::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(LONGEST_CONFIG).read_to_string(&mut text)?;
    // The parser's own words could show what is in the file.
    serde_json::from_str(&text).map(Some).map_err(|error| {
        io::Error::other(format!("line {} column {} is not as it should be", error.line(), error.column()))
    })
}

/// Whether a key of `config.json` (`host`, or an address of an older registry) means this registry.
fn names(key: &str, host: &str) -> bool {
    let bare = key.trim_start_matches("https://").trim_start_matches("http://");
    let bare = bare.split('/').next().unwrap_or_default();
    let is_hub = |name: &str| matches!(name, DOCKER_HUB | "index.docker.io" | "registry-1.docker.io");
    bare.eq_ignore_ascii_case(host) || (is_hub(host) && is_hub(bare))
}

impl Entry {
    fn credentials(&self) -> Option<Credentials> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Some(Credentials::of_identity(Secret::new(token.clone())));
        }
        if let Some(encoded) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            let lenient =
                GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
            let decoded = GeneralPurpose::new(&alphabet::STANDARD, lenient).decode(encoded.trim()).ok()?;
            let decoded = String::from_utf8(decoded).ok()?;
            let (username, password) = decoded.split_once(':')?;
            return Some(Credentials {
                username: username.to_owned(),
                password: Secret::new(password.trim_end_matches('\0').to_owned()),
            });
        }
        let (username, password) = (self.username.clone()?, self.password.clone()?);
        Some(Credentials { username, password: Secret::new(password) })
    }
}

/// Asks the program `docker-credential-<helper>`.
async fn ask(
    helper: &str,
    host: &str,
    environment: &BTreeMap<String, String>,
) -> Result<Option<Credentials>, RegistryError> {
    let program = format!("docker-credential-{helper}");
    let fail = |why: String| RegistryError::Helper { program: program.clone(), host: host.to_owned(), why };
    if !helper.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c)) {
        return Err(fail("its name is none".to_owned()));
    }
    let folders = environment.get("PATH").map(String::as_str).unwrap_or_default();
    let path = std::env::split_paths(folders).map(|folder| folder.join(&program)).find(|path| path.is_file());
    let Some(path) = path else {
        return Err(fail(
            "no such program is in PATH; install it, or remove it from Docker's config.json".to_owned(),
        ));
    };
    let key = if host == DOCKER_HUB { HUB_KEY } else { host };
    let talk = async {
        let mut child = Command::new(path)
            .arg("get")
            .env_clear()
            .envs(environment)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            // One that does not want to know has closed it.
            let _ = input.write_all(key.as_bytes()).await;
        }
        let mut answer = Vec::new();
        if let Some(output) = child.stdout.take() {
            output.take(LONGEST_ANSWER).read_to_end(&mut answer).await?;
        }
        Ok::<_, io::Error>((child.wait().await?, answer))
    };
    let (status, answer) = match tokio::time::timeout(HELPER_PATIENCE, talk).await {
        Ok(talked) => talked.map_err(|error| fail(format!("it could not be run ({})", error.kind())))?,
        Err(_) => return Err(fail(format!("it said nothing for {} s", HELPER_PATIENCE.as_secs()))),
    };
    if !status.success() {
        // The one failure that every helper words alike.
        if answer.starts_with(b"credentials not found in native keychain") {
            return Ok(None);
        }
        return Err(fail(format!("it ended with {status}; try `echo {key} | {program} get`")));
    }
    let Ok(HelperAnswer { username, secret }) = serde_json::from_slice(&answer) else {
        return Err(fail("it did not print what helpers print".to_owned()));
    };
    if username.is_empty() && secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(Credentials { username, password: Secret::new(secret) }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use base64::prelude::BASE64_STANDARD;

    use super::*;

    /// A home with this `config.json`, and with a helper `fake` that answers as the shell script says.
    fn home(config: &serde_json::Value, script: &str) -> (tempfile::TempDir, BTreeMap<String, String>) {
        let home = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(home.path().join(".docker")).unwrap();
        fs_err::write(home.path().join(".docker/config.json"), config.to_string()).unwrap();
        let helper = home.path().join("docker-credential-fake");
        fs_err::write(&helper, format!("#!/bin/sh\nread -r key\n{script}\n")).unwrap();
        fs_err::set_permissions(&helper, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = home.path().display().to_string();
        let environment = [("HOME", path.clone()), ("PATH", format!("{path}:/usr/bin:/bin"))];
        (home, environment.map(|(name, value)| (name.to_owned(), value)).into())
    }

    fn user(name: &str, password: &str) -> Credentials {
        Credentials { username: name.to_owned(), password: Secret::new(password.to_owned()) }
    }

    #[tokio::test]
    async fn auths_are_found_under_all_the_names_that_docker_gave_them() {
        let config = serde_json::json!({
            "auths": {
                HUB_KEY: { "auth": BASE64_STANDARD.encode("hub:pass:word") },
                "https://old.example.com/v2/": { "auth": BASE64_STANDARD.encode("old:1") },
                "localhost:5000": { "username": "plain", "password": "2" },
                "azure.example.com": { "auth": BASE64_STANDARD.encode("x:"), "identitytoken": "long" },
                "empty.example.com": {},
            }
        });
        let (_home, environment) = home(&config, "exit 9");
        let find = async |host: &str| credentials(host, &environment).await.unwrap();
        assert_eq!(find("docker.io").await, Some(user("hub", "pass:word")));
        assert_eq!(find("old.example.com").await, Some(user("old", "1")));
        assert_eq!(find("localhost:5000").await, Some(user("plain", "2")));
        assert_eq!(find("localhost:5001").await, None);
        assert_eq!(find("empty.example.com").await, None);
        let identity = find("azure.example.com").await.unwrap();
        assert_eq!(identity.identity_token().map(Secret::expose), Some("long"));
        assert_eq!(credentials("docker.io", &BTreeMap::new()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn helpers_are_asked_first_and_their_own_words_stay_with_them() {
        let config = serde_json::json!({
            "auths": { "b.example.com": { "auth": BASE64_STANDARD.encode("file:1") } },
            "credHelpers": { "a.example.com": "fake" },
        });
        let answer = r#"printf '{"ServerURL":"%s","Username":"of-%s","Secret":"s3cret"}' "$key" "$key""#;
        let (_home, environment) = home(&config, answer);
        assert_eq!(
            credentials("a.example.com", &environment).await.unwrap(),
            Some(user("of-a.example.com", "s3cret"))
        );
        assert_eq!(credentials("b.example.com", &environment).await.unwrap(), Some(user("file", "1")));

        let config = serde_json::json!({
            "auths": { "b.example.com": { "auth": BASE64_STANDARD.encode("file:1") } },
            "credsStore": "fake",
        });
        let (_home, environment) = home(&config, "echo credentials not found in native keychain; exit 1");
        assert_eq!(credentials("b.example.com", &environment).await.unwrap(), Some(user("file", "1")));
        assert_eq!(credentials("c.example.com", &environment).await.unwrap(), None);

        let (_home, environment) = home(&config, "echo s3cret; echo s3cret >&2; exit 1");
        let error = credentials("b.example.com", &environment).await.unwrap_err();
        assert!(!format!("{error} {error:?}").contains("s3cret"));
        assert!(
            error.to_string().contains("`docker-credential-fake` gave nothing for registry `b.example.com`")
        );
    }

    #[tokio::test]
    async fn a_broken_file_is_named_and_not_shown() {
        let (home, environment) = home(&serde_json::json!({}), "");
        fs_err::write(home.path().join(".docker/config.json"), r#"{"auths":{"x":{"auth":s3cret}}}"#).unwrap();
        let error = credentials("x", &environment).await.unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
        assert!(!format!("{error:?}").contains("s3cret"), "{error:?}");
    }
}
