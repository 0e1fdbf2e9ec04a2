//! `moorline token`: lets people and programs in that are not on the server's machine.

use clap::{Args, Subcommand, ValueEnum};
use moorline_core::Name;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    arguments::Yes,
    client::Precondition,
    confirm,
    output::{Columns, Printing},
    session::Session,
};

const COLUMNS: Columns = Columns(&[
    ("Id", "id"),
    ("Name", "name"),
    ("Role", "role"),
    ("Workspace", "workspace"),
    ("Endpoint", "endpoint"),
    ("Expires", "expires_at"),
]);
const KIND: &str = "tokens";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make a token; it is shown once
    #[command(
        after_help = "Examples:\n  moorline token create -n ci --role contributor --query token -o tsv\n  \
                      moorline token create -n shop --role scorer --endpoint iris --days 90\n\n\
                      A client puts it into MOORLINE_TOKEN."
    )]
    Create(Create),
    /// List the tokens, without what is secret about them
    #[command(after_help = "Example:\n  moorline token list")]
    List {
        #[command(flatten)]
        printing: Printing,
    },
    /// Take a token back
    #[command(after_help = "Example:\n  moorline token delete 3f9c2ab1 -y")]
    Delete {
        /// The token's id, as the list has it
        #[arg(value_parser = crate::document::version)]
        id: String,
        #[command(flatten)]
        yes: Yes,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// What it is for
    #[arg(short, long, value_name = "NAME")]
    name: Name,
    /// What its holder may do
    #[arg(long, value_enum)]
    role: Role,
    /// The only workspace that it is good for [default: all]
    #[arg(long, value_name = "NAME")]
    only_workspace: Option<Name>,
    /// The only endpoint that it is good for, of a scorer
    #[arg(long, value_name = "NAME")]
    endpoint: Option<Name>,
    /// Days until it is worth nothing any more [default: never]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: Option<u32>,
    #[command(flatten)]
    printing: Printing,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Everything, tokens and secrets too
    Owner,
    /// Everything but tokens
    Contributor,
    /// Look at everything that is not secret
    Reader,
    /// Send requests to endpoints
    Scorer,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::Contributor => "contributor",
            Self::Reader => "reader",
            Self::Scorer => "scorer",
        }
    }
}

pub(crate) async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    let client = session.client().await?;
    match verb {
        Verb::Create(create) => {
            let mut body = json!({ "name": create.name, "role": create.role.as_str() });
            if let Some(workspace) = &create.only_workspace {
                body["workspace"] = workspace.as_str().into();
            }
            if let Some(endpoint) = &create.endpoint {
                body["endpoint"] = endpoint.as_str().into();
            }
            if let Some(days) = create.days {
                body["expires_in_seconds"] = (u64::from(days) * 24 * 3600).into();
            }
            let url = client.root(&[KIND]);
            let made = client.call(Method::POST, url, Some(&body), Precondition::Any).await?.body;
            session.screen.note("this is the only time that the token is shown");
            create.printing.print(made, Columns::ANY)
        }
        Verb::List { printing } => {
            printing.print(Value::Array(client.list(client.root(&[KIND]), None).await?), COLUMNS)
        }
        Verb::Delete { id, yes } => {
            confirm::ask(&format!("Take the token `{id}` back?"), yes.yes)?;
            client.call(Method::DELETE, client.root(&[KIND, &id]), None, Precondition::Any).await.map(drop)
        }
    }
}
