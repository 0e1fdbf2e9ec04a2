//! What the tests of registries run: registry processes, images that are made up, and a watch on progress.

use std::{
    env,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use moorline_core::{Digest, Secret};
use moorline_deploy::{
    Progress, Step,
    image::Layout,
    registry::{Credentials, HostSettings, Reference, Registries, RegistryConfig},
};
use oci_spec::image::{Descriptor, DescriptorBuilder, MediaType};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::place::{eventually, skip};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A process of Debian's registry, which ends with the test.
#[derive(Debug)]
pub(crate) struct Registry {
    program: PathBuf,
    folder: TempDir,
    pub(crate) port: u16,
    process: Mutex<Child>,
}

impl Registry {
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(|_, _| {}).await
    }

    /// `set` changes the settings, whose folder it is told.
    pub(crate) async fn start_with(set: impl FnOnce(&mut Value, &Path)) -> Option<Self> {
        let Some(program) = env::var_os("MOORLINE_TEST_REGISTRY_PROGRAM").map(PathBuf::from) else {
            skip("MOORLINE_TEST_REGISTRY_PROGRAM does not name Debian's docker-registry");
            return None;
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let mut settings = json!({
            "version": 0.1,
            "log": { "level": "error" },
            "storage": { "filesystem": { "rootdirectory": folder.path().join("data") } },
            "http": { "addr": format!("127.0.0.1:{port}"), "secret": "the same after a restart" },
        });
        set(&mut settings, folder.path());
        // JSON is YAML.
        fs_err::write(folder.path().join("config.yml"), settings.to_string())
            .expect("settings can be written");
        let process = Mutex::new(spawn(&program, folder.path()));
        let registry = Self { program, folder, port, process };
        registry.answers().await;
        Some(registry)
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn reference(&self, rest: &str) -> Reference {
        format!("{}/{rest}", self.host()).parse().expect("a reference")
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(&self) {
        let mut process = self.process.lock().expect("nobody panicked with it");
        process.kill().expect("it can be killed");
        process.wait().expect("it ends");
    }

    pub(crate) async fn start_again(&self) {
        *self.process.lock().expect("nobody panicked with it") = spawn(&self.program, self.folder.path());
        self.answers().await;
    }

    async fn answers(&self) {
        eventually("the registry listens", || TcpStream::connect(("127.0.0.1", self.port)).is_ok()).await;
    }
}

fn spawn(program: &Path, folder: &Path) -> Child {
    let log = fs_err::File::create(folder.join("log")).expect("a log can be made").into_parts().0;
    Command::new(program)
        .arg("serve")
        .arg(folder.join("config.yml"))
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("docker-registry can be started")
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Ok(process) = self.process.get_mut() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

pub(crate) fn registries(hosts: &[(&str, HostSettings)]) -> Registries {
    let hosts = hosts.iter().map(|(host, settings)| ((*host).to_owned(), settings.clone())).collect();
    Registries::new(RegistryConfig { hosts, ..RegistryConfig::default() }).expect("the settings are sound")
}

pub(crate) fn user(username: &str, password: &str) -> Credentials {
    Credentials { username: username.to_owned(), password: Secret::new(password.to_owned()) }
}

/// A layout in a folder that goes away with it.
#[derive(Debug)]
pub(crate) struct Images {
    _folder: TempDir,
    pub(crate) layout: Layout,
}

impl Images {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let layout = Layout::open(&folder.path().join("images")).expect("a layout can be made");
        Self { _folder: folder, layout }
    }

    pub(crate) fn put(&self, media_type: &str, content: &[u8]) -> Descriptor {
        let (digest, size) = self.layout.put(content).expect("a blob can be written");
        describe(media_type, &digest, size)
    }

    /// An image of these layers.
    pub(crate) fn image(&self, architecture: &str, layers: &[Vec<u8>]) -> Descriptor {
        let config = json!({
            "architecture": architecture, "os": "linux", "rootfs": { "type": "layers", "diff_ids": [] },
        });
        let config = self.put(CONFIG, config.to_string().as_bytes());
        let layers: Vec<Descriptor> = layers.iter().map(|layer| self.put(LAYER, layer)).collect();
        self.document(MANIFEST, json!({ "config": config, "layers": layers }))
    }

    /// An index of images, each for its architecture.
    pub(crate) fn index(&self, images: &[(&str, Descriptor)]) -> Descriptor {
        let manifests: Vec<Value> = images
            .iter()
            .map(|(architecture, image)| {
                let mut image = serde_json::to_value(image).expect("a descriptor");
                image["platform"] = json!({ "os": "linux", "architecture": architecture });
                image
            })
            .collect();
        self.document(INDEX, json!({ "manifests": manifests }))
    }

    pub(crate) fn document(&self, media_type: &str, mut content: Value) -> Descriptor {
        content["schemaVersion"] = json!(2);
        content["mediaType"] = json!(media_type);
        self.put(media_type, content.to_string().as_bytes())
    }

    /// Names of files that are no blobs: what a transfer left behind.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        fs_err::read_dir(self.layout.dir().join("blobs/sha256"))
            .expect("blobs can be listed")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .filter(|name| name.len() != 64)
            .collect()
    }
}

pub(crate) fn describe(media_type: &str, digest: &Digest, size: u64) -> Descriptor {
    DescriptorBuilder::default()
        .media_type(MediaType::from(media_type))
        .digest(digest.to_string().parse::<oci_spec::image::Digest>().expect("a digest"))
        .size(size)
        .build()
        .expect("a descriptor")
}

pub(crate) fn digest(descriptor: &Descriptor) -> Digest {
    descriptor.digest().to_string().parse().expect("a digest")
}

/// Bytes that no other seed gives, and that do not repeat soon.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..length.div_ceil(8)).flat_map(|_| next()).take(length).collect()
}

/// What a progress was told: lines, and how far which blob was.
pub(crate) fn watched() -> (Progress, Arc<Mutex<Vec<String>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let progress = Progress::new({
        let told = Arc::clone(&told);
        move |step| {
            told.lock().expect("nobody panicked with it").push(match step {
                Step::Line(line) => line.to_owned(),
                Step::Transfer { direction, blob, done, total } => {
                    format!("{direction:?} {blob} {done}/{total}")
                }
            });
        }
    });
    (progress, told)
}
