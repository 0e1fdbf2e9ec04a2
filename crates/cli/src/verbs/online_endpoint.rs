//! `moorline online-endpoint`: stable names with keys, the split of their traffic, and requests to them.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Subcommand, ValueEnum};
use moorline_core::Name;
use moorline_spec::OnlineEndpoint;
use reqwest::{Method, header::AUTHORIZATION};
use serde_json::{Map, Value, json};

use super::{invoke, metrics, rollout};
use crate::{
    arguments::{Local, NoWait, Yes},
    client::{Client, Precondition},
    confirm,
    document::{DocumentFlags, Flags},
    edits::{Edits, merge_patch},
    exit::Explained,
    operation::{self, Waiting},
    output::{Columns, Printing},
    session::Session,
};

pub(super) const COLUMNS: Columns = Columns(&[
    ("Name", "name"),
    ("AuthMode", "auth_mode"),
    ("Traffic", "traffic"),
    ("Mirror", "mirror_traffic"),
    ("Rollout", "rollout.state"),
    ("State", "provisioning_state"),
    ("ScoringUri", "scoring_uri"),
]);
pub(super) const KIND: &str = "online-endpoints";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make an endpoint
    #[command(after_help = "Examples:\n  moorline online-endpoint create -n iris\n  \
                      moorline online-endpoint create -f endpoint.yml --set tags.team=a")]
    Create(Create),
    /// Show an endpoint
    #[command(after_help = "Examples:\n  moorline online-endpoint show -n iris\n  \
                      moorline online-endpoint show -n iris --query scoring_uri -o tsv")]
    Show(Show),
    /// List the endpoints
    #[command(after_help = "Example:\n  moorline online-endpoint list -o table")]
    List {
        #[command(flatten)]
        local: Local,
        #[command(flatten)]
        printing: Printing,
    },
    /// Change an endpoint: the split of its traffic, its tags, its description
    #[command(
        after_help = "Examples:\n  moorline online-endpoint update -n iris --traffic 'blue=90 green=10'\n  \
                      moorline online-endpoint update -n iris --mirror-traffic green=10"
    )]
    Update(Update),
    /// Give a deployment the traffic step by step, and take it back if it fails or is slow
    #[command(
        after_help = "Each step is watched: if more requests fail than --max-error-rate allows, or the slowest take longer \
                      than --max-p99,\nthe traffic becomes what it was before, and the command fails.\n\n\
                      Examples:\n  moorline online-endpoint rollout -n iris --to green\n  \
                      moorline online-endpoint rollout -n iris --to green --steps '10:5m,50:10m,100' --max-error-rate 1% \
                      --max-p99 200ms\n  \
                      moorline online-endpoint rollout -n iris --abort"
    )]
    Rollout(rollout::Rollout),
    /// Show what the deployments of an endpoint did: requests, errors, latencies, replicas, processors, memory
    #[command(after_help = "Examples:\n  moorline online-endpoint metrics -n iris --watch\n  \
                      moorline online-endpoint metrics -n iris -d green --from 6h -o json")]
    Metrics(metrics::Metrics),
    /// Delete an endpoint and its deployments
    #[command(after_help = "Example:\n  moorline online-endpoint delete -n iris -y")]
    Delete(Delete),
    /// Send a request to an endpoint, with its key
    #[command(after_help = "Examples:\n  moorline online-endpoint invoke -n iris -r request.json\n  \
                      moorline online-endpoint invoke -n iris -d green -r request.json -o tsv")]
    Invoke(Invoke),
    /// Print the keys of an endpoint, or a token where it takes tokens
    #[command(
        after_help = "Example:\n  moorline online-endpoint get-credentials -n iris --query primaryKey -o tsv"
    )]
    GetCredentials(Show),
    /// Make a new key; the old one is worth nothing any more
    #[command(
        after_help = "Example:\n  moorline online-endpoint regenerate-keys -n iris --key-type secondary"
    )]
    RegenerateKeys(RegenerateKeys),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    #[command(flatten)]
    document: DocumentFlags,
    /// The endpoint's name
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,
    /// key, aml_token or aad_token [default: key]
    #[arg(long, value_name = "MODE")]
    auth_mode: Option<String>,
    #[command(flatten)]
    local: Local,
    #[command(flatten)]
    wait: NoWait,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// The endpoint's name
    #[arg(short, long, value_name = "NAME")]
    name: Name,
    #[command(flatten)]
    local: Local,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Update {
    /// The endpoint's name
    #[arg(short, long, value_name = "NAME", required_unless_present = "file")]
    name: Option<Name>,
    /// A YAML file whose keys take the place of the endpoint's
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The percentage of requests that each deployment gets
    #[arg(short = 'r', long, num_args = 1.., value_name = "NAME=PERCENT")]
    traffic: Vec<Percentages>,
    /// The percentage of requests that a deployment gets a copy of
    #[arg(short, long, num_args = 1.., value_name = "NAME=PERCENT")]
    mirror_traffic: Vec<Percentages>,
    #[command(flatten)]
    edits: Edits,
    #[command(flatten)]
    local: Local,
    #[command(flatten)]
    wait: NoWait,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The endpoint's name
    #[arg(short, long, value_name = "NAME")]
    name: Name,
    #[command(flatten)]
    local: Local,
    #[command(flatten)]
    yes: Yes,
    #[command(flatten)]
    wait: NoWait,
}

#[derive(Debug, Args)]
pub(crate) struct Invoke {
    /// The endpoint's name
    #[arg(short, long, value_name = "NAME")]
    name: Name,
    /// The file with the request's body; standard input if it is `-`
    #[arg(short, long, value_name = "FILE")]
    request_file: Option<PathBuf>,
    /// The deployment that is asked, past the split of the traffic
    #[arg(short, long, value_name = "NAME")]
    deployment_name: Option<Name>,
    #[command(flatten)]
    local: Local,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Debug, Args)]
pub(crate) struct RegenerateKeys {
    /// The endpoint's name
    #[arg(short, long, value_name = "NAME")]
    name: Name,
    /// Which of the two keys
    #[arg(long, value_enum, ignore_case = true, default_value = "primary", value_name = "KEY")]
    key_type: KeyType,
    #[command(flatten)]
    wait: NoWait,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyType {
    Primary,
    Secondary,
}

/// `blue=90 green=10`, in one word or several.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Percentages(Vec<(Name, u8)>);

impl FromStr for Percentages {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one = |text: &str| {
            let (name, percent) = text.split_once('=').ok_or("expected NAME=PERCENT")?;
            let percent = percent.trim_end_matches('%').parse::<u8>().ok().filter(|percent| *percent <= 100);
            Ok((
                name.parse::<Name>().map_err(|error| error.to_string())?,
                percent.ok_or("a percentage is 0 to 100")?,
            ))
        };
        text.split([' ', ','])
            .filter(|part| !part.is_empty())
            .map(one)
            .collect::<Result<_, String>>()
            .map(Self)
    }
}

/// As the document has it; `None` where the flag was not given.
fn split(given: &[Percentages]) -> Option<Value> {
    (!given.is_empty()).then(|| {
        let pairs = given.iter().flat_map(|given| &given.0);
        Value::Object(pairs.map(|(name, percent)| (name.to_string(), Value::from(*percent))).collect())
    })
}

pub(crate) async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Create(create) => self::create(session, create).await,
        Verb::Show(show) => {
            let client = session.client().await?;
            let found = client.get(client.at(&[KIND, show.name.as_str()])).await?;
            show.printing.print(found, COLUMNS)
        }
        Verb::List { printing, .. } => {
            let client = session.client().await?;
            let found = client.list(client.at(&[KIND]), None).await?;
            printing.print(Value::Array(found), COLUMNS)
        }
        Verb::Update(update) => self::update(session, update).await,
        Verb::Rollout(rollout) => rollout::run(session, rollout).await,
        Verb::Metrics(metrics) => metrics::run(session, metrics).await,
        Verb::Delete(delete) => self::delete(session, delete).await,
        Verb::Invoke(invoke) => self::invoke(session, invoke).await,
        Verb::GetCredentials(show) => {
            let client = session.client().await?;
            let found = credentials(&client, &show.name).await?;
            show.printing.print(found, Columns::ANY)
        }
        Verb::RegenerateKeys(regenerate) => self::regenerate(session, regenerate).await,
    }
}

async fn create(session: &Session, create: Create) -> anyhow::Result<()> {
    let flags = Flags::default()
        .with("--name", "name", create.name.as_ref().map(Name::as_str))
        .with("--auth-mode", "auth_mode", create.auth_mode.as_deref())
        .with("--local", "compute", create.local.local.then_some("azureml:local"));
    let endpoint: OnlineEndpoint = create.document.read(flags, &session.screen)?;
    let client = session.client().await?;
    let url = client.at(&[KIND, endpoint.name.as_str()]);
    let body = serde_json::to_value(&endpoint)?;
    let reply = client.call(Method::PUT, url.clone(), Some(&body), Precondition::Absent).await?;
    if create.wait.no_wait {
        return Ok(());
    }
    wait(&client, session, &reply, &endpoint.name).await?;
    create.printing.print(client.get(url).await?, COLUMNS)
}

async fn update(session: &Session, update: Update) -> anyhow::Result<()> {
    let from_file = match &update.file {
        Some(_) => {
            let flags = Flags::default().with("--name", "name", update.name.as_ref().map(Name::as_str));
            let document = DocumentFlags::of_file(update.file.clone());
            Some(document.read::<OnlineEndpoint>(flags, &session.screen)?)
        }
        None => None,
    };
    let Some(name) = update.name.as_ref().or(from_file.as_ref().map(|endpoint| &endpoint.name)).cloned()
    else {
        return Err(Explained::usage("no endpoint is named").hint("name it with -n").into());
    };
    let client = session.client().await?;
    let url = client.at(&[KIND, name.as_str()]);
    let before = client.get(url.clone()).await?;
    let mut after = before.clone();
    if let (Some(endpoint), Some(after)) = (&from_file, after.as_object_mut())
        && let Value::Object(document) = serde_json::to_value(endpoint)?
    {
        after.extend(document);
    }
    update.edits.apply(&mut after)?;
    let mut patch = merge_patch(&before, &after);
    for (key, value) in
        [("traffic", split(&update.traffic)), ("mirror_traffic", split(&update.mirror_traffic))]
    {
        // The split is given whole: who is not named gets nothing.
        if let (Some(value), Some(patch)) = (value, patch.as_object_mut()) {
            patch.insert(key.to_owned(), replacing(before.get(key), value));
        }
    }
    let reply = client.call(Method::PATCH, url.clone(), Some(&patch), Precondition::Any).await?;
    if update.wait.no_wait {
        return Ok(());
    }
    wait(&client, session, &reply, &name).await?;
    update.printing.print(client.get(url).await?, COLUMNS)
}

/// A merge patch that leaves of an object only what is in the new one.
fn replacing(before: Option<&Value>, after: Value) -> Value {
    let mut patch: Map<String, Value> = before
        .and_then(Value::as_object)
        .into_iter()
        .flat_map(Map::keys)
        .map(|key| (key.clone(), Value::Null))
        .collect();
    if let Value::Object(after) = after {
        patch.extend(after);
    }
    Value::Object(patch)
}

async fn delete(session: &Session, delete: Delete) -> anyhow::Result<()> {
    confirm::ask(&format!("Delete the endpoint `{}` and its deployments?", delete.name), delete.yes.yes)?;
    let client = session.client().await?;
    let url = client.at(&[KIND, delete.name.as_str()]);
    let reply = client.call(Method::DELETE, url, None, Precondition::Any).await?;
    if delete.wait.no_wait {
        return Ok(());
    }
    wait(&client, session, &reply, &delete.name).await
}

async fn wait(
    client: &Client,
    session: &Session,
    reply: &crate::client::Reply,
    name: &Name,
) -> anyhow::Result<()> {
    let look_again = format!("moorline online-endpoint show -n {name}");
    let waiting = Waiting { what: &format!("endpoint {name}"), look_again: &look_again, logs: None };
    operation::wait(client, &session.screen, reply, waiting).await
}

/// The keys, or a token, in the names of Azure ML.
async fn credentials(client: &Client, name: &Name) -> anyhow::Result<Value> {
    let endpoint = client.get(client.at(&[KIND, name.as_str()])).await?;
    credentials_of(client, name, &endpoint).await
}

async fn credentials_of(client: &Client, name: &Name, endpoint: &Value) -> anyhow::Result<Value> {
    let what = if endpoint["auth_mode"] == "key" { "keys" } else { "token" };
    let url = client.at(&[KIND, name.as_str(), what]);
    Ok(client.call(Method::POST, url, None, Precondition::Any).await?.body)
}

async fn regenerate(session: &Session, regenerate: RegenerateKeys) -> anyhow::Result<()> {
    let client = session.client().await?;
    let name = &regenerate.name;
    let url = client.at(&[KIND, name.as_str(), "regenerate-keys"]);
    let which = match regenerate.key_type {
        KeyType::Primary => "Primary",
        KeyType::Secondary => "Secondary",
    };
    let body = json!({ "keyType": which });
    client.call(Method::POST, url, Some(&body), Precondition::Any).await?;
    session.screen.note(format_args!(
        "the {} key of `{name}` is a new one; `moorline online-endpoint get-credentials -n {name}` prints it",
        which.to_lowercase()
    ));
    Ok(())
}

async fn invoke(session: &Session, invoke: Invoke) -> anyhow::Result<()> {
    let body = invoke::body(invoke.request_file.as_deref())?;
    let client = session.client().await?;
    let endpoint = client.get(client.at(&[KIND, invoke.name.as_str()])).await?;
    let credentials = credentials_of(&client, &invoke.name, &endpoint).await?;
    let Some(scoring_uri) = endpoint["scoring_uri"].as_str() else {
        return Err(Explained::new(format!("the endpoint `{}` has no scoring URI", invoke.name)).into());
    };
    let mut request = client.foreign_request(Method::POST, client.given(scoring_uri)?);
    if let Some(key) = credentials["primaryKey"].as_str().or(credentials["accessToken"].as_str()) {
        request = request.header(AUTHORIZATION, format!("Bearer {key}"));
    }
    if let Some(deployment) = &invoke.deployment_name {
        request = request.header("azureml-model-deployment", deployment.as_str());
    }
    let answer = invoke::send(&client, request, body, &invoke.name).await?;
    invoke.printing.print_text(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_split_is_read_in_one_word_or_several() {
        let read = |words: &[&str]| {
            let given: Vec<Percentages> = words.iter().map(|word| word.parse().unwrap()).collect();
            split(&given).unwrap()
        };
        let expected = json!({"blue": 90, "green": 10});
        assert_eq!(read(&["blue=90 green=10"]), expected);
        assert_eq!(read(&["blue=90", "green=10%"]), expected);
        assert_eq!(read(&["blue=90,green=10"]), expected);
        assert_eq!(read(&[""]), json!({}));
        for bad in ["blue", "blue=x", "blue=101", "=5", "a/b=5", "blue=-1"] {
            assert!(bad.parse::<Percentages>().is_err(), "{bad}");
        }
    }

    #[test]
    fn who_is_not_named_in_a_split_gets_nothing() {
        let before = json!({"blue": 100, "green": 0});
        assert_eq!(replacing(Some(&before), json!({"green": 100})), json!({"blue": null, "green": 100}));
        assert_eq!(replacing(None, json!({})), json!({}));
    }
}
