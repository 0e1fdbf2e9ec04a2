//! The connection to an Engine.

use std::{fmt, io, sync::Arc, time::Duration};

use bollard::{API_DEFAULT_VERSION, Docker, errors::Error as Bollard};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use moorline_core::ErrorClass;
use tokio::{net::UnixStream, time::timeout};

use super::{
    EngineError, EngineHost,
    host::is_loopback,
    ssh::{self, Ssh},
    tls,
};

/// An Engine that does not answer in this time is not there.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// `ssh` may first have to wake a machine.
const SSH_WITHIN: Duration = Duration::from_secs(30);
/// Seconds until an answer begins: stopping a container takes as long as its requests may.
const ANSWER_WITHIN: u64 = 180;

/// A Docker Engine, or a Podman service, which speaks the same. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    docker: Docker,
    host: Arc<EngineHost>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("host", &self.host).finish_non_exhaustive()
    }
}

/// What an Engine is, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineDescription {
    /// `Docker` or `Podman`.
    pub name: String,
    pub version: String,
    /// Of the API that is spoken with it.
    pub api: String,
    /// `linux/amd64`
    pub platform: String,
    /// It runs without the rights of root.
    pub rootless: bool,
    /// The driver that stores images.
    pub storage: String,
    /// The driver of control groups, and their version: `cgroupfs 1`.
    pub cgroup: String,
}

impl Engine {
    /// Connects, and agrees on the newest version of the API that both know.
    pub async fn connect(host: &EngineHost) -> Result<Self, EngineError> {
        let within = if matches!(host, EngineHost::Ssh(_)) { SSH_WITHIN } else { CONNECT_WITHIN };
        let connect = async {
            let client = client(host).await?;
            client.negotiate_version().await.map_err(|error| unreachable(host, error))
        };
        let docker = timeout(within, connect).await.map_err(|_| {
            EngineError::new(
                ErrorClass::Timeout,
                format!("the Engine at {host} did not answer within {} seconds", within.as_secs()),
            )
        })??;
        Ok(Self { docker, host: Arc::new(host.clone()) })
    }

    pub fn host(&self) -> &EngineHost {
        &self.host
    }

    /// Whether it is still there.
    pub async fn ping(&self) -> Result<(), EngineError> {
        match timeout(CONNECT_WITHIN, self.docker.ping()).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(unreachable(&self.host, error)),
            Err(_) => Err(EngineError::new(
                ErrorClass::Timeout,
                format!("the Engine at {} does not answer any more", self.host),
            )),
        }
    }

    pub async fn describe(&self) -> Result<EngineDescription, EngineError> {
        let what = format!("the Engine at {} does not say what it is", self.host);
        let asked = async { tokio::try_join!(self.docker.version(), self.docker.info()) };
        let (version, info) = timeout(CONNECT_WITHIN, asked)
            .await
            .map_err(|_| EngineError::new(ErrorClass::Timeout, what.clone()))?
            .map_err(|error| EngineError::of(&what, error))?;
        let podman = version.components.iter().flatten().any(|part| part.name.contains("Podman"));
        let options = info.security_options.unwrap_or_default();
        let spoken = self.docker.client_version();
        let known = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
        Ok(EngineDescription {
            name: if podman { "Podman" } else { "Docker" }.to_owned(),
            version: known(version.version),
            api: format!("{}.{}", spoken.major_version, spoken.minor_version),
            platform: format!("{}/{}", known(version.os), known(version.arch)),
            rootless: options.iter().any(|option| option.contains("name=rootless")),
            storage: known(info.driver),
            cgroup: format!(
                "{} {}",
                known(info.cgroup_driver.map(|driver| driver.to_string())),
                known(info.cgroup_version.map(|version| version.to_string())),
            ),
        })
    }

    /// The image as `docker save` writes it.
    pub fn export(&self, image: &str) -> impl Stream<Item = Result<Bytes, EngineError>> + Send + use<> {
        let what = format!("could not export the image `{image}`");
        self.docker.export_image(image).map(move |chunk| chunk.map_err(|error| EngineError::of(&what, error)))
    }

    pub(super) fn docker(&self) -> &Docker {
        &self.docker
    }
}

async fn client(host: &EngineHost) -> Result<Docker, EngineError> {
    let client = match host {
        EngineHost::Unix(path) => {
            // The socket itself says best why it cannot be connected to.
            UnixStream::connect(path).await.map_err(|error| unix_refused(host, error))?;
            Docker::connect_with_unix(&path.to_string_lossy(), ANSWER_WITHIN, API_DEFAULT_VERSION)
        }
        EngineHost::Tcp { address, tls: Some(files) } => {
            tls::check(files).await?;
            // Somebody else may have chosen the cryptography before; it is the same for the whole process.
            if rustls::crypto::CryptoProvider::get_default().is_none() {
                return Err(EngineError::new(
                    ErrorClass::Internal,
                    "TLS was asked for before this program chose its cryptography",
                ));
            }
            Docker::connect_with_ssl(
                address,
                &files.key,
                &files.cert,
                &files.ca,
                ANSWER_WITHIN,
                API_DEFAULT_VERSION,
            )
        }
        EngineHost::Tcp { address, tls: None } => {
            if host.remote_host().is_some_and(|remote| !is_loopback(remote)) {
                return Err(EngineError::new(
                    ErrorClass::InvalidInput,
                    format!(
                        "{host} would be spoken to in the clear, and whoever reaches an Engine rules its machine; \
                         give its certificates (ca, cert, key) or use ssh://"
                    ),
                ));
            }
            Docker::connect_with_http(address, ANSWER_WITHIN, API_DEFAULT_VERSION)
        }
        EngineHost::Ssh(destination) => {
            let ssh = Ssh::new(destination);
            let transport = move |request| {
                let ssh = Arc::clone(&ssh);
                async move { ssh.request(request).await }
            };
            Docker::connect_with_custom_transport(
                transport,
                Some("http://docker"),
                ANSWER_WITHIN,
                API_DEFAULT_VERSION,
            )
        }
    };
    client.map_err(|error| {
        EngineError::caused(
            ErrorClass::InvalidInput,
            format!("the Engine at {host} cannot be connected to"),
            error,
        )
    })
}

fn unix_refused(host: &EngineHost, error: io::Error) -> EngineError {
    let (class, message) = match error.kind() {
        io::ErrorKind::NotFound => (
            ErrorClass::Unavailable,
            format!(
                "no Engine listens at {host}: there is no such socket; start Docker or Podman, or name another"
            ),
        ),
        io::ErrorKind::PermissionDenied => (
            ErrorClass::Forbidden,
            format!("{host} may not be used by this user; add your user to the group docker or run as root"),
        ),
        io::ErrorKind::ConnectionRefused => (
            ErrorClass::Unavailable,
            format!("no Engine listens at {host}: the socket is left over; start Docker or Podman"),
        ),
        _ => (ErrorClass::Unavailable, format!("the Engine at {host} cannot be connected to")),
    };
    EngineError::caused(class, message, error)
}

/// Why the first question had no answer.
fn unreachable(host: &EngineHost, error: Bollard) -> EngineError {
    if let Some(refusal) = tls::refusal(host, &error) {
        return refusal;
    }
    let (class, message) = match &error {
        Bollard::DockerResponseServerError { status_code: 400, message } if message.contains("HTTPS") => {
            return EngineError::new(
                ErrorClass::InvalidInput,
                format!("the Engine at {host} wants TLS: give the compute `tls` with its certificates"),
            );
        }
        Bollard::APIVersionParseError {}
        | Bollard::JsonDataError { .. }
        | Bollard::JsonSerdeError { .. }
        | Bollard::HyperResponseError { .. }
        | Bollard::DockerResponseServerError { status_code: 400..=499, .. } => {
            (ErrorClass::InvalidInput, format!("what listens at {host} is not an Engine"))
        }
        Bollard::DockerResponseServerError { .. } => {
            (ErrorClass::Unavailable, format!("the Engine at {host} does not work"))
        }
        Bollard::IOError { err } if ssh::said(err) => {
            (ErrorClass::Unavailable, format!("the Engine at {host} cannot be reached: {err}"))
        }
        _ => (ErrorClass::Unavailable, format!("the Engine at {host} cannot be reached; is it running?")),
    };
    EngineError::caused(class, message, error)
}
