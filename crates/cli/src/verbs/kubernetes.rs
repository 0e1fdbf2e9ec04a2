//! `moorline kubernetes`: what people with a cluster want to see and to apply by themselves.

use std::{fmt::Write, path::PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use moorline_core::Name;
use moorline_spec::OnlineDeployment;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    assets,
    client::Precondition,
    document::{DocumentFlags, Flags},
    exit::Explained,
    output,
    session::Session,
};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Print the account and the role that a server needs in a namespace, and nothing beyond it
    #[command(after_help = "Examples:\n  moorline kubernetes rbac | kubectl apply -f -\n  \
                      moorline kubernetes rbac --namespace ml --gateway | kubectl apply -f -\n  \
                      moorline kubernetes rbac --namespace ml --service-account ci --service-account-namespace ops")]
    Rbac(Rbac),
    /// Print what would be applied to the cluster for a deployment's document
    #[command(after_help = "Examples:\n  moorline kubernetes manifests -f blue.yml > blue.manifests.yml\n  \
                      moorline kubernetes manifests -f blue.yml --image registry.example.org/ml/iris@sha256:0a1b…")]
    Manifests {
        #[command(flatten)]
        of: Of,
        /// The format
        #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
        output: Format,
    },
    /// Show what would change in the cluster
    #[command(after_help = "Examples:\n  moorline kubernetes diff -f blue.yml\n  \
                      moorline kubernetes diff -f blue.yml -o json")]
    Diff {
        #[command(flatten)]
        of: Of,
        /// The format; lines for people where it is left out
        #[arg(short, long, value_enum)]
        output: Option<Format>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Rbac {
    /// The namespace that deployments run in
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    namespace: String,
    /// The account that the server uses
    #[arg(long, default_value = "moorline", value_name = "NAME")]
    service_account: String,
    /// The namespace of that account, where it is another one
    #[arg(long, value_name = "NAME")]
    service_account_namespace: Option<String>,
    /// Also what computes with a `gateway` need: its account, and the server's rights to what leads to it
    #[arg(long, value_name = "NAME", num_args = 0..=1, default_missing_value = "moorline-gateway")]
    gateway: Option<String>,
    /// Also what it takes to read Azure ML's own InstanceTypes, which are not of a namespace
    #[arg(long)]
    instance_types: bool,
    /// The format
    #[arg(short, long, value_enum, default_value_t = Format::Yaml)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// One document after the other
    Yaml,
    /// A list
    Json,
}

/// The deployment that is meant.
#[derive(Debug, Args)]
pub(crate) struct Of {
    /// The deployment's YAML file
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// The deployment's name
    #[arg(short, long, value_name = "NAME")]
    name: Option<Name>,
    /// The endpoint's name
    #[arg(short, long, value_name = "NAME")]
    endpoint_name: Option<Name>,
    /// The compute that it would run on
    #[arg(long, value_name = "NAME")]
    compute: Option<Name>,
    /// The image that it would run, where one is made already; else its digest is left open
    #[arg(long, value_name = "REFERENCE")]
    image: Option<String>,
}

pub(crate) async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Rbac(rbac) => {
            let account_namespace = rbac.service_account_namespace.as_ref().unwrap_or(&rbac.namespace);
            let mut objects = moorline_deploy::kubernetes::rbac(
                &rbac.namespace,
                &rbac.service_account,
                account_namespace,
                rbac.gateway.as_deref(),
            );
            if rbac.instance_types {
                let more = moorline_deploy::kubernetes::rbac_of_instance_types;
                objects.extend(more(&rbac.service_account, account_namespace));
            }
            print(objects, rbac.output)
        }
        Verb::Manifests { of, output } => {
            let mut rendered = render(session, &of).await?;
            let Value::Array(objects) = rendered["documents"].take() else {
                return Err(no_cluster());
            };
            if rendered["changes"].is_null() {
                return Err(no_cluster());
            }
            print(objects, output)
        }
        Verb::Diff { of, output } => {
            let mut rendered = render(session, &of).await?;
            let Value::Array(changes) = rendered["changes"].take() else { return Err(no_cluster()) };
            match output {
                None => output::write(&told(&changes)),
                Some(Format::Json) => output::write(&format!("{:#}\n", Value::Array(changes))),
                Some(Format::Yaml) => {
                    output::write(&serde_norway::to_string(&changes).context("could not write YAML")?)
                }
            }
        }
    }
}

fn no_cluster() -> anyhow::Error {
    Explained::usage("the deployment would not run on a cluster")
        .hint("name a compute of `type: kubernetes` with --compute, or in the document or its endpoint")
        .into()
}

async fn render(session: &Session, of: &Of) -> anyhow::Result<Value> {
    let flags = Flags::default().with("--name", "name", of.name.as_ref().map(Name::as_str)).with(
        "--endpoint-name",
        "endpoint_name",
        of.endpoint_name.as_ref().map(Name::as_str),
    );
    let document = DocumentFlags::of_file(Some(of.file.clone()));
    let mut deployment: OnlineDeployment = document.read(flags, &session.screen)?;
    let client = session.client().await?;
    assets::register_inline(&client, &session.screen, &mut deployment).await?;
    let (endpoint, name) = (deployment.endpoint_name.as_str(), deployment.name.as_str());
    let mut url = client.at(&["online-endpoints", endpoint, "deployments", name]);
    url.query_pairs_mut().append_pair("dry_run", "true");
    for (key, value) in [("compute", of.compute.as_ref().map(Name::as_str)), ("image", of.image.as_deref())] {
        if let Some(value) = value {
            url.query_pairs_mut().append_pair(key, value);
        }
    }
    let body = serde_json::to_value(&deployment)?;
    Ok(client.call(Method::PUT, url, Some(&body), Precondition::Any).await?.body)
}

fn print(objects: Vec<Value>, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => {
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects });
            output::write(&format!("{list:#}\n"))
        }
        Format::Yaml => {
            let mut text = String::new();
            for object in objects {
                let document =
                    serde_norway::to_string(&object).context("could not write the objects as YAML")?;
                write!(text, "---\n{document}")?;
            }
            output::write(&text)
        }
    }
}

/// A line for every object, and one for every place that would change.
fn told(changes: &[Value]) -> String {
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = Vec::new();
    for change in changes {
        let sign = match word(&change["action"]).as_str() {
            "create" => '+',
            "remove" => '-',
            "change" => '~',
            _ => '=',
        };
        lines.push(format!("{sign} {} {}\n", word(&change["kind"]), word(&change["name"])));
        for place in change["places"].as_array().into_iter().flatten() {
            lines.push(format!("    {}: {} → {}\n", word(&place["path"]), place["is"], place["would_be"]));
        }
    }
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_can_be_read() {
        let changes = [
            json!({"kind": "Service", "name": "a", "action": "keep", "places": []}),
            json!({"kind": "Deployment", "name": "a", "action": "change",
                   "places": [{"path": "spec.replicas", "is": 1, "would_be": 2}]}),
            json!({"kind": "Secret", "name": "b", "action": "create", "places": []}),
        ];
        assert_eq!(told(&changes), "= Service a\n~ Deployment a\n    spec.replicas: 1 → 2\n+ Secret b\n");
    }
}
