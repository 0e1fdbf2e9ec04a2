//! Stores that pods can reach: a PostgreSQL and a bucket on an address of this machine.

use std::{
    fs::Permissions,
    io::{BufRead, BufReader},
    net::{IpAddr, SocketAddr},
    os::unix::fs::{PermissionsExt as _, chown},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    Request, call,
    containers::free_port,
    place::{skip, venv},
    process::eventually,
};

const PATIENCE: Duration = Duration::from_mins(1);

/// A PostgreSQL server that trusts everybody. It ends with the value.
#[derive(Debug)]
pub struct Postgres {
    folder: TempDir,
    programs: PathBuf,
    user: u32,
    address: SocketAddr,
    child: Child,
}

impl Postgres {
    /// `None`, said aloud, where PostgreSQL is not installed.
    pub fn start(address: IpAddr) -> Option<Self> {
        let installed = fs_err::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let programs =
            installed.map(|version| version.path().join("bin")).find(|bin| bin.join("initdb").exists());
        let user = Command::new("id").args(["-u", "postgres"]).output().ok();
        let user = user.and_then(|user| String::from_utf8_lossy(&user.stdout).trim().parse().ok());
        let (Some(programs), Some(user)) = (programs, user) else {
            skip("no PostgreSQL under /usr/lib/postgresql; `cargo xtask test` installs it as root");
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs_err::set_permissions(folder.path(), Permissions::from_mode(0o755)).expect("rights can be set");
        chown(folder.path(), Some(user), None).expect("a folder can be given away");
        let data = folder.path().join("data");
        let mut initdb = Command::new(programs.join("initdb"));
        initdb.uid(user).current_dir("/").arg("-D").arg(&data);
        initdb.args(["--username=moorline", "--auth=trust", "--encoding=UTF8", "--no-sync"]);
        let made = initdb.output().expect("`initdb` can be started");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        fs_err::write(data.join("pg_hba.conf"), "local all all trust\nhost all all all trust\n")
            .expect("a file can be written");
        let address = SocketAddr::from((address, free_port()));
        let log = fs_err::File::create(folder.path().join("log")).expect("a log can be made");
        let child = Command::new(programs.join("postgres"))
            .uid(user)
            .current_dir("/")
            .arg("-D")
            .arg(&data)
            .arg("-c")
            .arg(format!("listen_addresses={}", address.ip()))
            .arg("-p")
            .arg(address.port().to_string())
            .args(["-c", "fsync=off", "-c"])
            .arg(format!("unix_socket_directories={}", folder.path().display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.into_parts().0)
            .spawn()
            .expect("`postgres` can be started");
        let postgres = Self { folder, programs, user, address, child };
        let ready = || postgres.runs("pg_isready", &["--quiet"]);
        assert!(eventually(PATIENCE, ready), "PostgreSQL does not answer");
        assert!(postgres.runs("createdb", &["workspace"]), "the database cannot be made");
        Some(postgres)
    }

    pub fn url(&self) -> String {
        format!("postgres://moorline@{}/workspace", self.address)
    }

    fn runs(&self, program: &str, arguments: &[&str]) -> bool {
        let mut command = Command::new(self.programs.join(program));
        command.args(["--username", "moorline", "--host"]).arg(self.address.ip().to_string());
        command.arg("--port").arg(self.address.port().to_string()).args(arguments);
        command.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = Command::new(self.programs.join("pg_ctl"));
        stop.uid(self.user).current_dir("/").args(["stop", "-m", "immediate", "-D"]);
        let _ = stop.arg(self.folder.path().join("data")).stdout(Stdio::null()).status();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that speaks S3, with one bucket. It ends with the value.
#[derive(Debug)]
pub struct Bucket {
    child: Child,
    address: SocketAddr,
}

impl Bucket {
    pub const NAME: &'static str = "models";

    /// `None`, said aloud, where its Python environment was not made.
    pub fn start(address: IpAddr) -> Option<Self> {
        let venv = venv("s3")?;
        let server: &Path = &venv.bin("moto_server");
        let mut child = Command::new(venv.python())
            .arg(server)
            .args(["-H", &address.to_string(), "-p", "0"])
            .env("PYTHONUNBUFFERED", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Python can be started");
        let mut lines = BufReader::new(child.stderr.take().expect("it has a standard error")).lines();
        let told = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.split_once("Running on http://")?.1.trim().parse().ok());
        // Until it ends, so that it never waits for a reader of its log.
        std::thread::spawn(move || lines.count());
        let bucket = Self { child, address: told.expect("the server says where it listens") };
        let make =
            Request::new("PUT", &format!("/{}", Self::NAME)).header("host", &bucket.address.to_string());
        let made = call(bucket.address, &make);
        assert_eq!(made.status, 200, "{}", made.text());
        Some(bucket)
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
