//! `moorline up`: the server in this process, until it is told to end. `moorline down` tells it.

use std::{
    collections::BTreeMap,
    future::pending,
    io::Read as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use clap::Args;
use moorline_core::Secret;
use moorline_deploy::registry::{Platform, PlatformError};
use moorline_server::{
    Announcement, Bounds, HubSettings, LeaderElection, Leadership, Server, ServerConfig, StartError,
};
use moorline_store::{Blobs, Database, StoreConfig};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    doctor,
    exit::Explained,
    observation::ObservationFlags,
    output,
    session::{Session, environment_of_process},
};

pub(crate) const EXAMPLE: &str = "Examples:\n  moorline up\n  \
    moorline up --hub 0.0.0.0:8883 --hub-name hub.example.org\n  \
    moorline up --listen 0.0.0.0:7440 --database postgres://ml@db/moorline --blobs s3://models/moorline\n\n\
    An address that other machines can reach needs a token first: `moorline token create`.\n\
    A database's password belongs into MOORLINE_DATABASE or PGPASSWORD, not into a flag.\n\
    An S3 store takes AWS_ENDPOINT, AWS_REGION, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and their relatives.";

/// How long `down` waits: the server's own drain, and a little.
const END: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(50);
/// How short and how long an owner's token may be.
const OWNER_TOKEN: (u64, u64) = (32, 512);

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// The address to listen on; port 0 is any free one
    #[arg(
        long,
        env = "MOORLINE_LISTEN",
        default_value = "127.0.0.1:7440",
        value_name = "ADDRESS",
        hide_env_values = true
    )]
    listen: SocketAddr,
    /// Where metadata is kept: a SQLite file, or a postgres:// URL [default: workspace.db in the home folder]
    #[arg(long, env = "MOORLINE_DATABASE", value_name = "FILE|URL", hide_env_values = true)]
    database: Option<String>,
    /// Where files are kept: a folder, or s3://BUCKET/PREFIX [default: blobs in the home folder]
    #[arg(long, env = "MOORLINE_BLOBS", value_name = "DIR|URL", hide_env_values = true)]
    blobs: Option<String>,
    /// The scorer that runs releases [default: moorline-scorer beside this program, or in PATH]
    #[arg(long, env = "MOORLINE_SCORER", value_name = "FILE", hide_env_values = true)]
    scorer: Option<PathBuf>,
    /// The scorer without libraries that images get [default: moorline-scorer-static beside this program, or in PATH]
    #[arg(long, env = "MOORLINE_STATIC_SCORER", value_name = "FILE", hide_env_values = true)]
    static_scorer: Option<PathBuf>,
    /// A scorer without libraries for images of another platform: linux/arm64=FILE; may be given several times
    #[arg(
        long,
        env = "MOORLINE_OTHER_SCORERS",
        value_name = "PLATFORM=FILE",
        value_delimiter = ',',
        value_parser = other_scorer,
        hide_env_values = true
    )]
    other_scorer: Vec<(String, PathBuf)>,
    /// The ONNX Runtime library that images get [default: libonnxruntime.so.1 beside the scorer, if it is there]
    #[arg(long, env = "ORT_DYLIB_PATH", value_name = "FILE", hide_env_values = true)]
    onnxruntime: Option<PathBuf>,
    /// The uv that makes Python environments [default: found on this machine]
    #[arg(long, env = "MOORLINE_UV", value_name = "FILE", hide_env_values = true)]
    uv: Option<PathBuf>,
    /// What scoring URIs begin with, behind a proxy: https://ml.example.org
    #[arg(long, env = "MOORLINE_PUBLIC_URL", value_name = "URL", hide_env_values = true)]
    public_url: Option<String>,
    /// Where the identity lies that secrets are encrypted to [default: keys in the home folder]
    #[arg(long, env = "MOORLINE_KEYS", value_name = "DIR", hide_env_values = true)]
    keys: Option<PathBuf>,
    /// A file with a token of the role owner, 32 to 512 characters: for a server that a program sets up
    #[arg(long, env = "MOORLINE_OWNER_TOKEN_FILE", value_name = "FILE", hide_env_values = true)]
    owner_token_file: Option<PathBuf>,
    /// Serve while this Lease of a Kubernetes cluster is held, and wait for it until then: several servers of one store
    #[arg(
        long,
        env = "MOORLINE_LEADER_ELECTION",
        value_name = "NAMESPACE/NAME",
        value_parser = lease,
        hide_env_values = true
    )]
    leader_election: Option<(String, String)>,
    /// The pod of this server in the Lease's namespace, which is labelled moorline.io/role=leader or follower
    #[arg(
        long,
        env = "MOORLINE_POD",
        value_name = "NAME",
        requires = "leader_election",
        hide_env_values = true
    )]
    pod: Option<String>,
    /// Listen here for devices: MQTT over TLS, as in 0.0.0.0:8883
    #[arg(
        long,
        env = "MOORLINE_HUB",
        value_name = "ADDRESS",
        requires = "hub_name",
        hide_env_values = true,
        help_heading = "Devices"
    )]
    hub: Option<SocketAddr>,
    /// The name by which devices reach it, which is in its certificate and in connection strings
    #[arg(
        long,
        env = "MOORLINE_HUB_NAME",
        value_name = "HOST",
        hide_env_values = true,
        help_heading = "Devices"
    )]
    hub_name: Option<String>,
    /// Listen here over HTTPS for devices that enrol and fetch releases, and for methods that modules call, as in
    /// 0.0.0.0:443
    #[arg(
        long,
        env = "MOORLINE_HUB_HTTPS",
        value_name = "ADDRESS",
        requires = "hub",
        hide_env_values = true,
        help_heading = "Devices"
    )]
    hub_https: Option<SocketAddr>,
    #[command(flatten)]
    observation: ObservationFlags,
    /// Leave the terminal's session first: what a server that is started in the background does
    #[arg(long, hide = true)]
    detached: bool,
}

pub(crate) async fn run(session: &Session, up: Up) -> anyhow::Result<()> {
    if up.detached {
        // It fails only where the process leads a group already, and then there is no session to leave.
        let _ = rustix::process::setsid();
    }
    let home = session.home()?;
    fs_err::create_dir_all(&home)?;
    let home = fs_err::canonicalize(&home)?;
    warn_of_password(session, &up);
    let config = config(session, up, home.clone())?;
    // Before anything is opened, so that a signal during the start is not the death of it.
    let mut ends = Ends::listen()?;
    let workspace = config.default_workspace.clone();
    let leadership = tokio::select! {
        leadership = Box::pin(Server::campaign(&config)) => leadership.map_err(start_error)?,
        _ = ends.next() => return Ok(()),
    };
    let lost = leadership.as_ref().map(Leadership::lost);
    let lost = async {
        match lost {
            Some(lost) => lost.await,
            None => pending().await,
        }
    };
    let running = tokio::select! {
        // A start that failed has let go of the lease, and its reason is the one to tell.
        biased;
        running = Server::lead(config, leadership) => running.map_err(start_error)?,
        why = lost => return Err(leads_no_more(&why)),
    };
    output::write(&format!(
        "moorline {} serves the workspace `{workspace}` at http://{}\n\
         its home is {}\n\
         next: moorline online-endpoint create -n NAME; moorline --help\n\
         end it with Ctrl-C or `moorline down`; what was deployed goes on running\n",
        env!("CARGO_PKG_VERSION"),
        running.address(),
        home.display(),
    ))?;
    let keep = tokio::select! {
        keep = ends.next() => keep,
        why = running.lost() => return Err(leads_no_more(&why)),
    };
    session.screen.note("finishing the requests in flight; a second signal cuts them");
    let cut = async {
        ends.next().await;
    };
    running.stop(keep, cut).await;
    Ok(())
}

/// Another server may lead by now: nothing is finished, and the process ends.
fn leads_no_more(why: &str) -> anyhow::Error {
    Explained::new(format!("this server leads no more: {why}"))
        .hint("it has ended without finishing anything; start it again, and it follows")
        .into()
}

/// The signals that end a server.
pub(crate) struct Ends {
    interrupted: tokio::signal::unix::Signal,
    terminated: tokio::signal::unix::Signal,
    everything: tokio::signal::unix::Signal,
}

impl Ends {
    pub(crate) fn listen() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("could not listen for signals");
        Ok(Self {
            interrupted: on(SignalKind::interrupt())?,
            terminated: on(SignalKind::terminate())?,
            everything: on(SignalKind::quit())?,
        })
    }

    /// Waits for one; whether what was deployed goes on running.
    pub(crate) async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.interrupted.recv() => true,
            _ = self.terminated.recv() => true,
            _ = self.everything.recv() => false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// End what was deployed too; the next server starts it again
    #[arg(long)]
    everything: bool,
}

fn start_error(error: StartError) -> anyhow::Error {
    let hint = error.hint();
    let error = anyhow::Error::from(error);
    match hint {
        // The message is the error's own; what is wrapped around it carries the hint.
        Some(hint) => error.context(Explained::new("the server did not start").hint(hint)),
        None => error.context("the server did not start"),
    }
}

fn config(session: &Session, up: Up, home: PathBuf) -> anyhow::Result<ServerConfig> {
    let scorer = match up.scorer {
        Some(given) => given,
        None => doctor::find_beside("moorline-scorer", &session.variables.search_path).ok_or_else(|| {
            Explained::new("there is no moorline-scorer beside this program or in PATH")
                .hint("it runs what is deployed; say where it is with --scorer")
        })?,
    };
    let scorer = fs_err::canonicalize(scorer)?;
    let static_scorer = up
        .static_scorer
        .or_else(|| doctor::find_beside("moorline-scorer-static", &session.variables.search_path));
    let onnxruntime = up.onnxruntime.or_else(|| {
        let beside = scorer.with_file_name("libonnxruntime.so.1");
        beside.exists().then_some(beside)
    });
    let mut store = StoreConfig::in_folder(&home);
    if let Some(database) = up.database {
        store.database = database_of(database);
    }
    if let Some(blobs) = up.blobs {
        store.blobs = blobs_of(&blobs, &session.variables.object_store)?;
    }
    if let Some(keys) = up.keys {
        store.keys = keys;
    }
    let pod = up.pod;
    Ok(ServerConfig {
        home,
        program: std::env::current_exe().context("could not find this program's own file")?,
        listen: up.listen,
        store,
        scorer,
        static_scorer: static_scorer.map(fs_err::canonicalize).transpose()?,
        other_scorers: other_scorers(up.other_scorer)?,
        onnxruntime: onnxruntime.map(fs_err::canonicalize).transpose()?,
        uv: up.uv,
        environment: environment_of_process(),
        default_workspace: session.workspace().clone(),
        public_url: up.public_url,
        owner_token: up.owner_token_file.as_deref().map(owner_token).transpose()?,
        leader_election: up.leader_election.map(|(namespace, lease)| LeaderElection {
            namespace,
            lease,
            pod,
        }),
        hub: up.hub.zip(up.hub_name).map(|(mqtt, name)| HubSettings { mqtt, https: up.hub_https, name }),
        pages: Some(moorline_portal::answer),
        observation: up.observation.settings("moorline"),
        bounds: Bounds::default(),
    })
}

fn other_scorer(text: &str) -> Result<(String, PathBuf), String> {
    let (platform, file) =
        text.split_once('=').ok_or("it is written PLATFORM=FILE, as in linux/arm64=scorer")?;
    let platform: Platform = platform.parse().map_err(|error: PlatformError| error.to_string())?;
    Ok((platform.to_string(), file.into()))
}

fn other_scorers(given: Vec<(String, PathBuf)>) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut scorers = BTreeMap::new();
    for (platform, file) in given {
        if scorers.insert(platform.clone(), fs_err::canonicalize(file)?).is_some() {
            bail!("--other-scorer is given twice for {platform}");
        }
    }
    Ok(scorers)
}

fn lease(text: &str) -> Result<(String, String), String> {
    let label = |part: &str| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        (1..=63).contains(&part.len())
            && part.chars().all(fits)
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    match text.split_once('/') {
        Some((namespace, name)) if label(namespace) && label(name) => {
            Ok((namespace.to_owned(), name.to_owned()))
        }
        _ => Err("it is written NAMESPACE/NAME, both of small letters, digits and `-`".to_owned()),
    }
}

/// The token in a file, whose last line end is not part of it.
fn owner_token(file: &Path) -> anyhow::Result<Secret> {
    let mut bytes = Vec::new();
    fs_err::File::open(file)?.take(OWNER_TOKEN.1 + 2).read_to_end(&mut bytes)?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let token = text.trim_end_matches(['\r', '\n']);
    let fits = (OWNER_TOKEN.0..=OWNER_TOKEN.1).contains(&(token.len() as u64));
    if !fits || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let hint = format!("make one with `openssl rand -hex 32 > {}`", file.display());
        let (least, most) = OWNER_TOKEN;
        let message = format!(
            "`{}` holds no token: it is {least} to {most} letters, digits and signs, on one line",
            file.display()
        );
        return Err(Explained::new(message).hint(hint).into());
    }
    Ok(Secret::new(token.to_owned()))
}

fn database_of(text: String) -> Database {
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        return Database::Postgres(Secret::new(text));
    }
    Database::Sqlite(text.strip_prefix("sqlite://").unwrap_or(&text).into())
}

fn blobs_of(text: &str, options: &BTreeMap<String, Secret>) -> anyhow::Result<Blobs> {
    let Some(rest) = text.strip_prefix("s3://") else {
        if text.contains("://") {
            bail!("`{text}` is no place for files; it is a folder or s3://BUCKET/PREFIX");
        }
        return Ok(Blobs::Folder(text.into()));
    };
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.is_empty() {
        bail!("`{text}` names no bucket; it is s3://BUCKET/PREFIX");
    }
    Ok(Blobs::S3 {
        bucket: bucket.to_owned(),
        prefix: prefix.trim_end_matches('/').to_owned(),
        options: options.clone(),
    })
}

/// A flag can be seen by everybody on the machine.
fn warn_of_password(session: &Session, up: &Up) {
    let secret = up.database.as_deref().filter(|url| {
        let authority = url.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(""));
        authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'))
    });
    if secret.is_some_and(|url| std::env::args().any(|word| word.contains(url))) {
        session.screen.warn(
            "everybody on this machine can see the password in --database; put the URL into MOORLINE_DATABASE",
        );
    }
}

/// Tells the home's server to end, and waits until it has.
pub(crate) async fn down(session: &Session, down: Down) -> anyhow::Result<()> {
    let home = session.home()?;
    let Some(announced) = Announcement::read(&home)? else {
        session.screen.note("no server runs here");
        return Ok(());
    };
    // The number of a process that ended may be another program's by now.
    if crate::local_server::find(&home).await.is_none() {
        session.screen.note("no server runs here");
        return Ok(());
    }
    let pid = i32::try_from(announced.pid).ok().and_then(Pid::from_raw);
    let pid = pid.context("the server's process number is none")?;
    let how = if down.everything { Signal::QUIT } else { Signal::TERM };
    kill_process(pid, how).with_context(|| format!("could not end process {}", announced.pid))?;
    let deadline = Instant::now() + END;
    while test_kill_process(pid).is_ok() && still_announced(&home, announced.pid) {
        if Instant::now() > deadline {
            bail!("process {} has not ended within {} s", announced.pid, END.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
    let rest = if down.everything { "" } else { "; what was deployed goes on running" };
    session.screen.note(format_args!("the server at http://{} has ended{rest}", announced.address));
    Ok(())
}

fn still_announced(home: &Path, pid: u32) -> bool {
    Announcement::read(home).ok().flatten().is_some_and(|announced| announced.pid == pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scorers_of_other_platforms_are_named_by_them() {
        assert_eq!(other_scorer("linux/arm64=a=b"), Ok(("linux/arm64".to_owned(), PathBuf::from("a=b"))));
        assert!(other_scorer("arm64=a").unwrap_err().contains("`arm64` is not a platform"));
        assert!(other_scorer("linux/arm64").is_err());
        let twice = vec![("linux/arm64".to_owned(), PathBuf::from("/")); 2];
        assert!(other_scorers(twice).unwrap_err().to_string().contains("twice for linux/arm64"));
    }

    #[test]
    fn a_lease_is_named_with_its_namespace() {
        assert_eq!(lease("ml/moorline-1"), Ok(("ml".to_owned(), "moorline-1".to_owned())));
        for wrong in
            ["moorline", "ml/", "/x", "ml/a/b", "ML/a", "ml/-a", "ml/a_b", &format!("ml/{}", "a".repeat(64))]
        {
            assert!(lease(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_owners_token_is_long_and_on_one_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        let read = |text: &str| {
            fs_err::write(&file, text).unwrap();
            owner_token(&file)
        };
        let token = "a1".repeat(16);
        assert_eq!(read(&format!("{token}\n")).unwrap().expose(), token);
        assert_eq!(read(&"x".repeat(512)).unwrap().expose().len(), 512);
        for wrong in ["", "short", &format!("{token}\n{token}"), &format!("{token} "), &"x".repeat(513)] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("holds no token") && !error.contains(&token), "{error}");
        }
    }

    #[test]
    fn places_are_told_apart() {
        assert!(matches!(database_of("postgres://u@h/d".to_owned()), Database::Postgres(_)));
        assert!(
            matches!(database_of("/var/ml.db".to_owned()), Database::Sqlite(path) if path == Path::new("/var/ml.db"))
        );
        let none = BTreeMap::new();
        assert!(matches!(blobs_of("/srv/blobs", &none).unwrap(), Blobs::Folder(_)));
        let Blobs::S3 { bucket, prefix, .. } = blobs_of("s3://models/a/b/", &none).unwrap() else {
            panic!("not S3")
        };
        assert_eq!((bucket.as_str(), prefix.as_str()), ("models", "a/b"));
        assert!(blobs_of("s3://", &none).is_err());
        assert!(blobs_of("ftp://x", &none).is_err());
    }
}
