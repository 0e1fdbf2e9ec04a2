//! A workspace whose deployments run on a container host, and a look at that host with Docker's own client.

use crate::{
    Said, Workspace,
    containers::{docker, engine},
    documents::endpoint,
};

/// A request that the linear model answers.
pub const BODY: &str = r#"{"data": [[1, 2, 3, 4]]}"#;

/// A workspace with a compute `docker`, whose containers are gone when it is.
#[derive(Debug)]
pub struct Hosted {
    pub workspace: Workspace,
    /// Where Docker's own client finds the Engine.
    pub host: String,
}

impl Hosted {
    /// On the Engine of all tests. `settings` are lines of the compute's document.
    pub fn up(settings: &str) -> Option<Self> {
        Some(Self::on(Workspace::down(), settings, engine()?))
    }

    /// On another Engine.
    pub fn on(workspace: Workspace, settings: &str, host: String) -> Self {
        let reached = format!("host: {host}\n{settings}");
        Self::reached(workspace, &reached, host)
    }

    /// On an Engine that the server reaches by these lines of the compute's document, and Docker's client at `host`.
    pub fn reached(mut workspace: Workspace, lines: &str, host: String) -> Self {
        workspace.start();
        let hosted = Self { workspace, host };
        hosted.compute("docker", lines);
        hosted
    }

    /// Makes a compute of these lines.
    pub fn compute(&self, name: &str, lines: &str) {
        let file = format!("{name}.yml");
        self.workspace.write(&file, format!("name: {name}\ntype: container\n{lines}"));
        self.workspace.moorline(&["compute", "create", "-f", &file]).ok();
    }

    /// An endpoint and a deployment `blue` of it on the host; the endpoint's key.
    pub fn deploy(&self, name: &str, document: &str) -> String {
        self.workspace.write("endpoint.yml", endpoint(name));
        self.workspace.write("blue.yml", document);
        self.workspace.moorline(&["online-endpoint", "create", "-f", "endpoint.yml"]).ok();
        self.create(&["-f", "blue.yml", "--all-traffic"]).ok();
        self.workspace.key(name)
    }

    pub fn create(&self, arguments: &[&str]) -> Said {
        let all = [&["online-deployment", "create", "--compute", "docker"], arguments].concat();
        self.workspace.moorline(&all)
    }

    /// The ids of the endpoint's containers that run.
    pub fn containers(&self, endpoint: &str) -> Vec<String> {
        let label = format!("label=io.moorline.endpoint={endpoint}");
        let listed = docker(&self.host, &["ps", "--quiet", "--no-trunc", "--filter", &label]);
        listed.lines().map(str::to_owned).collect()
    }

    pub fn score(&self, endpoint: &str, key: &str) -> (u16, String) {
        let reply = self.workspace.call(&Workspace::scoring(endpoint, key, BODY));
        // However Python writes it.
        (reply.status, reply.text().replace(", ", ","))
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        for endpoint in self
            .workspace
            .moorline(&["online-endpoint", "list", "--query", "[].name", "-o", "tsv"])
            .stdout
            .lines()
        {
            self.workspace.moorline(&["online-endpoint", "delete", "-n", endpoint, "-y"]);
        }
    }
}
