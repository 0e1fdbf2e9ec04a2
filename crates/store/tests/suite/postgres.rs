//! A PostgreSQL server of the tests' own, from the distribution's binaries, on a Unix socket in a temporary folder.

use std::{
    ffi::OsStr,
    fs::Permissions,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use moorline_core::Secret;
use moorline_store::{Database, Store, StoreError};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;

use crate::place::{Place, default, skip};

/// A running server; it goes with this.
pub(crate) struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    /// Whom it runs as, where this is root: PostgreSQL refuses to be root.
    user: Option<u32>,
    child: Child,
}

impl Postgres {
    /// `None`, said aloud, where PostgreSQL is not installed.
    pub(crate) fn start() -> Option<Self> {
        let Some(programs) = programs() else {
            skip("no PostgreSQL under /usr/lib/postgresql; `cargo xtask test` installs it as root");
            return None;
        };
        let user = match id(&["-u"]) {
            Some(0) => {
                let user = id(&["-u", "postgres"]);
                if user.is_none() {
                    skip("PostgreSQL refuses to run as root, and there is no user `postgres`");
                    return None;
                }
                user
            }
            _ => None,
        };
        let folder = tempfile::tempdir().unwrap();
        if let Some(user) = user {
            fs_err::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
            chown(folder.path(), Some(user), None).unwrap();
        }
        let mut initdb = command(&programs, user, "initdb");
        initdb.arg("-D").arg(folder.path().join("data"));
        initdb.args(["--username=moorline", "--auth=trust", "--encoding=UTF8", "--no-sync"]);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let child = Self::serve(&folder, &programs, user);
        Some(Self { folder, programs, user, child })
    }

    fn serve(folder: &TempDir, programs: &Path, user: Option<u32>) -> Child {
        let log =
            fs_err::OpenOptions::new().append(true).create(true).open(folder.path().join("log")).unwrap();
        command(programs, user, "postgres")
            .arg("-D")
            .arg(folder.path().join("data"))
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200"])
            .arg("-c")
            .arg(format!("unix_socket_directories={}", folder.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(log.into_parts().0))
            .spawn()
            .unwrap()
    }

    fn address(&self, database: &str) -> String {
        format!("postgres://moorline@localhost/{database}?host={}", self.folder.path().display())
    }

    /// Waits until it answers.
    async fn connect(&self) -> PgConnection {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            match PgConnection::connect(&self.address("postgres")).await {
                Ok(connection) => return connection,
                Err(error) if Instant::now() > deadline => {
                    let log = fs_err::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                    panic!("PostgreSQL did not start: {error}\n{log}");
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    pub(crate) async fn create_database(&self, name: &str) -> Database {
        let mut connection = self.connect().await;
        // Sorted as people do, unless a column says otherwise: which the store's must.
        let statement = format!(
            "CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en' LOCALE 'C.UTF-8'"
        );
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        Database::Postgres(Secret::new(self.address(name)))
    }

    /// Waits until no store is connected to this database.
    pub(crate) async fn wait_until_idle(&self, address: &str) {
        let mut connection = PgConnection::connect(address).await.unwrap();
        let deadline = Instant::now() + Duration::from_mins(1);
        let connected = "SELECT COUNT(*) FROM pg_stat_activity
                         WHERE datname = current_database() AND application_name = 'moorline'";
        while sqlx::query_scalar::<_, i64>(connected).fetch_one(&mut connection).await.unwrap() > 0 {
            assert!(Instant::now() < deadline, "a killed store's connections are still there");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Ends it as a failing machine would.
    fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        // Its children notice that it is gone; a new one cannot start before they are.
        let mut stop = command(&self.programs, self.user, "pg_ctl");
        let _ = stop.args(["stop", "-m", "immediate", "-D"]).arg(self.folder.path().join("data")).output();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = command(&self.programs, self.user, "pg_ctl");
        let _ = stop.args(["stop", "-m", "immediate", "-D"]).arg(self.folder.path().join("data")).output();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The newest version's folder of programs.
fn programs() -> Option<PathBuf> {
    let versions = fs_err::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<(u32, PathBuf)> = versions
        .filter_map(|version| {
            let number = version.file_name().to_string_lossy().parse().ok()?;
            let programs = version.path().join("bin");
            programs.join("initdb").exists().then_some((number, programs))
        })
        .collect();
    found.sort();
    found.pop().map(|(_, programs)| programs)
}

fn id(arguments: &[&str]) -> Option<u32> {
    let output = Command::new("id").args(arguments).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

fn command(programs: &Path, user: Option<u32>, program: impl AsRef<OsStr>) -> Command {
    let program = programs.join(program.as_ref());
    let mut command = match user {
        Some(user) => {
            let mut command = Command::new("setpriv");
            command.arg(format!("--reuid={user}")).args(["--clear-groups"]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.current_dir("/");
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_and_comes_back_is_told_and_forgiven() {
    let Some(mut server) = Postgres::start() else { return };
    let database = server.create_database("outage").await;
    let place = Place::on(database);
    let store = place.open().await;
    store.workspace(&default()).await.unwrap();
    server.stop();
    let error = store.workspace(&default()).await.unwrap_err();
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error:?}");
    let fresh = Store::open(place.config()).await.unwrap_err();
    assert!(matches!(fresh, StoreError::Unreachable { .. }), "{fresh:?}");
    server.child = Postgres::serve(&server.folder, &server.programs, server.user);
    server.connect().await;
    store.workspace(&default()).await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_none_is_refused_without_its_password() {
    let mut place = Place::sqlite();
    place.database = Database::Postgres(Secret::new("postgres://me:hunter2@[".to_owned()));
    let error = Store::open(place.config()).await.unwrap_err();
    assert!(matches!(error, StoreError::Configuration { .. }), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("hunter2"));
}
