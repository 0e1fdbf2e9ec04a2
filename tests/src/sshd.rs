//! An SSH server before an Engine, on a port of its own with keys of its own, and a client that knows both.

use std::{
    env,
    ffi::OsString,
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    containers::{free_port, tool},
    place::skip,
    process::eventually,
};

const SERVER: &str = "/usr/sbin/sshd";

/// OpenSSH's server. It ends with the value.
#[derive(Debug)]
pub struct Sshd {
    folder: TempDir,
    child: Child,
    /// As the document of a compute has it.
    pub host: String,
}

impl Sshd {
    /// Whoever comes in finds the Engine at `docker_host`. `None` where there is no such server, which was said.
    pub fn start(docker_host: &str) -> Option<Self> {
        if !Path::new(SERVER).exists() {
            skip("no SSH server; `cargo xtask test` installs openssh-server");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let at = |name: &str| folder.path().join(name).display().to_string();
        for key in ["server", "user"] {
            tool("ssh-keygen", &["-q", "-t", "ed25519", "-N", "", "-f", &at(key)]);
        }
        let port = free_port();
        let server = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             SetEnv DOCKER_HOST={docker_host}\n",
            at("server"),
            at("user.pub")
        );
        let write = |name: &str, text: String| {
            fs_err::write(folder.path().join(name), text).expect("a file can be written");
        };
        write("sshd_config", server);
        let public = fs_err::read_to_string(folder.path().join("server.pub")).expect("a key was made");
        write("known_hosts", format!("[127.0.0.1]:{port} {public}"));
        write(
            "ssh_config",
            format!(
                "Host *\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  \
                 GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n",
                at("user"),
                at("known_hosts")
            ),
        );
        // `ssh` looks for its settings in the home of the user's account, wherever `HOME` is.
        fs_err::create_dir(folder.path().join("bin")).expect("a folder can be made");
        write("bin/ssh", format!("#!/bin/sh\nexec /usr/bin/ssh -F {} \"$@\"\n", at("ssh_config")));
        fs_err::set_permissions(folder.path().join("bin/ssh"), PermissionsExt::from_mode(0o755))
            .expect("a file can be made a program");
        // Where the server, as root, gives up its rights.
        fs_err::create_dir_all("/run/sshd").expect("a folder can be made");
        let log = fs_err::File::create(folder.path().join("log")).expect("a log can be made").into_parts().0;
        let mut command = Command::new(SERVER);
        command.args(["-D", "-e", "-f", &at("sshd_config")]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let host = format!("ssh://{}@127.0.0.1:{port}", tool("id", &["-un"]).trim());
        let server = Self { child: child.expect("an SSH server can be started"), folder, host };
        let listens = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        assert!(eventually(Duration::from_secs(20), listens), "{}", server.log());
        Some(server)
    }

    /// The `PATH` on which `ssh` is one that has the key and knows the server.
    pub fn path(&self) -> OsString {
        let rest = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.folder.path().join("bin")).chain(env::split_paths(&rest));
        env::join_paths(folders).expect("paths without colons")
    }

    /// Lets the client forget whom it knew.
    pub fn forget(&self) {
        fs_err::write(self.folder.path().join("known_hosts"), "").expect("a file can be written");
    }

    /// How many sessions there are now.
    pub fn sessions(&self) -> usize {
        crate::process::children_of(self.child.id()).len()
    }

    pub fn log(&self) -> String {
        fs_err::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
