//! `moorline online-deployment`: a model or a scoring script that runs under an endpoint.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use moorline_core::{FileEntry, Name};
use moorline_spec::OnlineDeployment;
use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::{
    arguments::{Local, NoWait, Yes},
    assets,
    client::{Client, Precondition, Reply},
    confirm,
    document::{DocumentFlags, Flags},
    download,
    edits::{Edits, merge_patch},
    exit::Explained,
    operation::{self, Waiting},
    output::{Columns, Printing},
    session::Session,
    stream,
};

const COLUMNS: Columns = Columns(&[
    ("Name", "name"),
    ("Endpoint", "endpoint_name"),
    ("Model", "model"),
    ("Environment", "environment"),
    ("Instances", "instance_count"),
    ("State", "provisioning_state"),
]);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a deployment: upload what it needs, start it, and wait until it is ready
    #[command(after_help = "Examples:\n  moorline online-deployment create -f blue.yml --all-traffic\n  \
                      moorline online-deployment create -n blue -e iris -f blue.yml --set instance_count=2\n  \
                      moorline online-deployment create -f blue.yml --dry-run -o yaml")]
    Create(Box<Create>),
    /// Show a deployment
    #[command(after_help = "Example:\n  moorline online-deployment show -n blue -e iris")]
    Show(Show),
    /// List the deployments of an endpoint
    #[command(after_help = "Example:\n  moorline online-deployment list -e iris -o table")]
    List {
        /// The endpoint's name
        #[arg(short, long, value_name = "NAME")]
        endpoint_name: Name,
        #[command(flatten)]
        local: Local,
        #[command(flatten)]
        printing: Printing,
    },
    /// Change a deployment; its instances are replaced one by one, and no request is lost
    #[command(
        after_help = "Examples:\n  moorline online-deployment update -n blue -e iris --set instance_count=2\n  \
                      moorline online-deployment update -f blue.yml"
    )]
    Update(Box<Update>),
    /// Delete a deployment
    #[command(after_help = "Example:\n  moorline online-deployment delete -n blue -e iris -y")]
    Delete(Delete),
    /// Print the log of a deployment
    #[command(
        after_help = "Examples:\n  moorline online-deployment get-logs -n blue -e iris --lines 100\n  \
                      moorline online-deployment get-logs -n blue -e iris --follow\n  \
                      moorline online-deployment get-logs -n blue -e iris --request-id 4fd5e7c1-7b4e-4d0c-a2a0-9a3f5a1de0b2"
    )]
    GetLogs(GetLogs),
    /// See and fetch what was collected of requests and answers
    #[command(
        subcommand,
        after_help = "Example:\n  moorline online-deployment collected list -n blue -e iris -o table"
    )]
    Collected(Collected),
}

#[derive(Debug, Subcommand)]
pub(crate) enum Collected {
    /// List the files of records that were collected, the newest first
    #[command(
        after_help = "Example:\n  moorline online-deployment collected list -n blue -e iris --fetch -o table"
    )]
    List {
        #[command(flatten)]
        which: WhichCollected,
        #[command(flatten)]
        printing: Printing,
    },
    /// Write the files of records, in JSON Lines, below a folder that is made
    #[command(
        after_help = "Example:\n  moorline online-deployment collected download -n blue -e iris --collection model_inputs"
    )]
    Download {
        #[command(flatten)]
        which: WhichCollected,
        /// The folder
        #[arg(short = 'p', long, default_value = "collected", value_name = "DIR")]
        download_path: PathBuf,
    },
}

#[derive(Debug, Args)]
pub(crate) struct WhichCollected {
    #[command(flatten)]
    which: Which,
    /// Only this collection
    #[arg(long, value_name = "NAME")]
    collection: Option<Name>,
    /// Have the replicas end the files that they are writing, and fetch them first
    #[arg(long)]
    fetch: bool,
}

const COLLECTED: Columns =
    Columns(&[("File", "path"), ("Begins", "begins_at"), ("Records", "records"), ("Bytes", "size")]);

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    document: DocumentFlags,
    /// The deployment's name
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,
    /// The endpoint's name
    #[arg(short, long, value_name = "NAME")]
    endpoint_name: Option<Name>,
    /// Give it all of the endpoint's traffic once it is ready
    #[arg(long)]
    all_traffic: bool,
    /// Accepted for scripts written for `az`; scoring scripts are checked by starting them
    #[arg(long)]
    skip_script_validation: bool,
    #[command(flatten)]
    run: RunFlags,
    #[command(flatten)]
    printing: Printing,
}

/// Where and how a deployment is made or changed.
#[derive(Debug, Args)]
struct RunFlags {
    /// The compute that it runs on
    #[arg(long, value_name = "NAME", conflicts_with = "local")]
    compute: Option<Name>,
    #[command(flatten)]
    local: Local,
    /// Print what the compute would be told, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: NoWait,
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The deployment's name
    #[arg(short, long, value_name = "NAME")]
    name: Name,
    /// The endpoint's name
    #[arg(short, long, value_name = "NAME")]
    endpoint_name: Name,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    local: Local,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The deployment's name
    #[arg(short, long, value_name = "NAME", required_unless_present = "file")]
    name: Option<Name>,
    /// The endpoint's name
    #[arg(short, long, value_name = "NAME", required_unless_present = "file")]
    endpoint_name: Option<Name>,
    /// A YAML file that takes the place of what the deployment was made of
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[command(flatten)]
    edits: Edits,
    #[command(flatten)]
    run: RunFlags,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    local: Local,
    #[command(flatten)]
    yes: Yes,
    #[command(flatten)]
    wait: NoWait,
}

#[derive(Debug, Args)]
pub(crate) struct GetLogs {
    #[command(flatten)]
    which: Which,
    /// The last lines, so many at most
    #[arg(short, long, value_name = "N", default_value_t = 5000)]
    lines: usize,
    /// Go on with new lines as they come
    #[arg(long)]
    follow: bool,
    /// Only this instance's
    #[arg(long, value_name = "ID")]
    instance: Option<String>,
    /// Only the lines of this request, whichever instance took it: what its answer says as x-request-id
    #[arg(long, value_name = "ID", value_parser = request_id)]
    request_id: Option<String>,
    /// Accepted for scripts written for `az`; there is one kind of log
    #[arg(short, long, value_name = "CONTAINER")]
    container: Option<Container>,
    #[command(flatten)]
    local: Local,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Container {
    InferenceServer,
    StorageInitializer,
}

fn request_id(text: &str) -> Result<String, String> {
    if (1..=100).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("it has 1 to 100 characters".to_owned())
    }
}

pub(crate) async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Create(create) => self::create(session, *create).await,
        Verb::Show(show) => {
            let client = session.client().await?;
            let found = client.get(url(&client, &show.which.endpoint_name, &show.which.name)).await?;
            show.printing.print(found, COLUMNS)
        }
        Verb::List { endpoint_name, printing, .. } => {
            let client = session.client().await?;
            let url = client.at(&["online-endpoints", endpoint_name.as_str(), "deployments"]);
            printing.print(Value::Array(client.list(url, None).await?), COLUMNS)
        }
        Verb::Update(update) => self::update(session, *update).await,
        Verb::Delete(delete) => self::delete(session, delete).await,
        Verb::GetLogs(logs) => self::get_logs(session, logs).await,
        Verb::Collected(Collected::List { which, printing }) => {
            let client = session.client().await?;
            printing.print(Value::Array(which.files(&client).await?), COLLECTED)
        }
        Verb::Collected(Collected::Download { which, download_path }) => {
            let client = session.client().await?;
            let files =
                which.files(&client).await?.into_iter().map(|mut file| -> anyhow::Result<FileEntry> {
                    let (path, size, sha256) =
                        (file["path"].take(), file["size"].take(), file["sha256"].take());
                    Ok(serde_json::from_value(json!({ "path": path, "size": size, "sha256": sha256 }))?)
                });
            let files = files.collect::<anyhow::Result<Vec<FileEntry>>>()?;
            download::fetch(&client, &session.screen, "what was collected", &files, &download_path).await?;
            session.screen.note(format_args!("{} files are in `{}`", files.len(), download_path.display()));
            Ok(())
        }
    }
}

impl WhichCollected {
    async fn files(&self, client: &Client) -> anyhow::Result<Vec<Value>> {
        let Which { name, endpoint_name } = &self.which;
        let parts = ["online-endpoints", endpoint_name.as_str(), "deployments", name.as_str(), "collected"];
        let mut url = client.at(&parts);
        if self.fetch {
            client.send(client.request(Method::POST, url.clone())).await?;
        }
        if let Some(collection) = &self.collection {
            url.query_pairs_mut().append_pair("collection", collection.as_str());
        }
        client.list(url, None).await
    }
}

fn url(client: &Client, endpoint: &Name, deployment: &Name) -> Url {
    client.at(&["online-endpoints", endpoint.as_str(), "deployments", deployment.as_str()])
}

impl RunFlags {
    fn query(&self, url: &mut Url, all_traffic: bool) {
        // `url` has no query yet; touching the pairs without adding one would leave a bare `?`.
        let compute = match &self.compute {
            Some(compute) => Some(compute.as_str()),
            None => self.local.local.then_some("local"),
        };
        for (key, value) in [
            ("all_traffic", all_traffic.then_some("true")),
            ("compute", compute),
            ("dry_run", self.dry_run.then_some("true")),
        ] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(key, value);
            }
        }
    }
}

async fn create(session: &Session, create: Create) -> anyhow::Result<()> {
    if create.document.file.is_none() {
        return Err(Explained::usage("a deployment is described by a YAML file")
            .hint("name it with -f")
            .into());
    }
    let flags = Flags::default().with("--name", "name", create.name.as_ref().map(Name::as_str)).with(
        "--endpoint-name",
        "endpoint_name",
        create.endpoint_name.as_ref().map(Name::as_str),
    );
    let mut deployment: OnlineDeployment = create.document.read(flags, &session.screen)?;
    let client = session.client().await?;
    let own = url(&client, &deployment.endpoint_name, &deployment.name);
    if !create.run.dry_run {
        // Before gigabytes are sent; the server makes sure of it.
        refuse_existing(&client, &own, &deployment, create.run.local.local).await?;
    }
    assets::register_inline(&client, &session.screen, &mut deployment).await?;
    let mut target = own.clone();
    create.run.query(&mut target, create.all_traffic);
    let body = serde_json::to_value(&deployment)?;
    let precondition = if create.run.dry_run { Precondition::Any } else { Precondition::Absent };
    let reply = client.call(Method::PUT, target, Some(&body), precondition).await?;
    let done = Done { client: &client, own, endpoint: &deployment.endpoint_name, name: &deployment.name };
    done.finish(session, reply, &create.run, create.printing).await
}

async fn refuse_existing(
    client: &Client,
    own: &Url,
    deployment: &OnlineDeployment,
    make_endpoint: bool,
) -> anyhow::Result<()> {
    let (endpoint, name) = (&deployment.endpoint_name, &deployment.name);
    if client.find(own.clone()).await?.is_some() {
        return Err(Explained::new(format!("the deployment `{name}` of the endpoint `{endpoint}` exists"))
            .hint("`moorline online-deployment update` changes it")
            .into());
    }
    let url = client.at(&["online-endpoints", endpoint.as_str()]);
    if client.find(url.clone()).await?.is_none() {
        if make_endpoint {
            // As `az` does for `--local`.
            let body = json!({ "name": endpoint });
            return client.call(Method::PUT, url, Some(&body), Precondition::Absent).await.map(drop);
        }
        return Err(Explained::new(format!("there is no endpoint `{endpoint}`"))
            .hint(format!("`moorline online-endpoint create -n {endpoint}` makes it"))
            .into());
    }
    Ok(())
}

async fn update(session: &Session, update: Update) -> anyhow::Result<()> {
    let client;
    let (endpoint, name, own, reply);
    if update.file.is_some() {
        let flags = Flags::default().with("--name", "name", update.name.as_ref().map(Name::as_str)).with(
            "--endpoint-name",
            "endpoint_name",
            update.endpoint_name.as_ref().map(Name::as_str),
        );
        let document = DocumentFlags::of_file(update.file.clone()).changed_by(update.edits.overrides()?);
        let mut deployment: OnlineDeployment = document.read(flags, &session.screen)?;
        client = session.client().await?;
        own = url(&client, &deployment.endpoint_name, &deployment.name);
        // An update is of something that exists.
        client.get(own.clone()).await?;
        assets::register_inline(&client, &session.screen, &mut deployment).await?;
        let mut target = own.clone();
        update.run.query(&mut target, false);
        let body = serde_json::to_value(&deployment)?;
        reply = client.call(Method::PUT, target, Some(&body), Precondition::Any).await?;
        (endpoint, name) = (deployment.endpoint_name, deployment.name);
    } else {
        let (Some(of), Some(named)) = (update.endpoint_name, update.name) else {
            return Err(Explained::usage("no deployment is named")
                .hint("name it with -n and -e, or -f")
                .into());
        };
        client = session.client().await?;
        own = url(&client, &of, &named);
        let before = client.get(own.clone()).await?;
        let mut after = before.clone();
        update.edits.apply(&mut after)?;
        if update.edits.are_none() && update.run.compute.is_none() && !update.run.local.local {
            session.screen.warn("nothing is changed: neither --set, --add, --remove nor -f is given");
        }
        let mut target = own.clone();
        update.run.query(&mut target, false);
        let patch = merge_patch(&before, &after);
        reply = client.call(Method::PATCH, target, Some(&patch), Precondition::Any).await?;
        (endpoint, name) = (of, named);
    }
    let done = Done { client: &client, own, endpoint: &endpoint, name: &name };
    done.finish(session, reply, &update.run, update.printing).await
}

/// A deployment that the server has taken on.
struct Done<'a> {
    client: &'a Client,
    own: Url,
    endpoint: &'a Name,
    name: &'a Name,
}

impl Done<'_> {
    async fn finish(
        self,
        session: &Session,
        reply: Reply,
        run: &RunFlags,
        printing: Printing,
    ) -> anyhow::Result<()> {
        if run.dry_run {
            return printing.print(reply.body, Columns::ANY);
        }
        if run.wait.no_wait {
            return Ok(());
        }
        self.wait(session, &reply).await?;
        printing.print(self.client.get(self.own).await?, COLUMNS)
    }

    async fn wait(&self, session: &Session, reply: &Reply) -> anyhow::Result<()> {
        let which = format!("-n {} -e {}", self.name, self.endpoint);
        let waiting = Waiting {
            what: &format!("deployment {}", self.name),
            look_again: &format!("moorline online-deployment show {which}"),
            logs: Some(&format!("moorline online-deployment get-logs {which}")),
        };
        operation::wait(self.client, &session.screen, reply, waiting).await
    }
}

async fn delete(session: &Session, delete: Delete) -> anyhow::Result<()> {
    let Which { name, endpoint_name: endpoint } = &delete.which;
    confirm::ask(&format!("Delete the deployment `{name}` of the endpoint `{endpoint}`?"), delete.yes.yes)?;
    let client = session.client().await?;
    let own = url(&client, endpoint, name);
    let reply = client.call(Method::DELETE, own.clone(), None, Precondition::Any).await?;
    if delete.wait.no_wait {
        return Ok(());
    }
    Done { client: &client, own, endpoint, name }.wait(session, &reply).await
}

async fn get_logs(session: &Session, logs: GetLogs) -> anyhow::Result<()> {
    let client = session.client().await?;
    let mut url = url(&client, &logs.which.endpoint_name, &logs.which.name);
    if let Ok(mut path) = url.path_segments_mut() {
        path.push("logs");
    }
    url.query_pairs_mut().append_pair("tail", &logs.lines.to_string());
    if logs.follow {
        url.query_pairs_mut().append_pair("follow", "true");
    }
    if let Some(instance) = &logs.instance {
        url.query_pairs_mut().append_pair("replica", instance);
    }
    if let Some(id) = &logs.request_id {
        url.query_pairs_mut().append_pair("request_id", id);
    }
    stream::print(client.send(client.request(Method::GET, url)).await?, "the log").await
}
