//! `moorline image`: releases as OCI images, for whatever runs containers.

use std::{
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum, builder::PossibleValue};
use futures_util::StreamExt;
use moorline_core::Name;
use moorline_spec::OnlineDeployment;
use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::{
    arguments::Yes,
    assets,
    client::{Client, Precondition},
    confirm,
    document::{DocumentFlags, Flags},
    exit::Explained,
    operation::{self, Waiting},
    output::{Columns, Format, Printing, parse_query},
    session::Session,
};

const COLUMNS: Columns =
    Columns(&[("Name", "name"), ("Digest", "digest"), ("Bytes", "size"), ("Base", "base")]);
const KIND: &str = "images";

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make the image of a deployment's document; it serves alone: `docker run -p 5001:5001 REFERENCE`
    #[command(after_help = "Examples:\n  \
        moorline image build -f deployment.yml -t registry.example.org/ml/iris:7 --push\n  \
        moorline image build -f deployment.yml -t iris:7 --output iris.tar\n  \
        skopeo copy oci-archive:iris.tar docker-daemon:iris:7")]
    Build(Box<Build>),
    /// Show an image: its layers, and what is said about it
    #[command(after_help = "Example:\n  moorline image show iris:7")]
    Show {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        printing: Printing,
    },
    /// Look for a signature by a key
    #[command(after_help = "Example:\n  moorline image verify iris:7 --key cosign.pub")]
    Verify {
        #[command(flatten)]
        which: Which,
        /// The file with the public key (PEM); may be repeated
        #[arg(long, value_name = "FILE", required = true)]
        key: Vec<PathBuf>,
        #[command(flatten)]
        printing: Printing,
    },
    /// List the images that were made here
    #[command(after_help = "Example:\n  moorline image list")]
    List {
        #[command(flatten)]
        printing: Printing,
    },
    /// Take away the images that no deployment uses
    #[command(after_help = "Example:\n  moorline image prune -y")]
    Prune {
        #[command(flatten)]
        yes: Yes,
        #[command(flatten)]
        printing: Printing,
    },
    /// Make a key that signs images: the private half becomes a secret, the public half is printed
    #[command(after_help = "Example:\n  moorline image generate-key -n signing > signing.pub")]
    GenerateKey {
        /// The secret's name
        #[arg(short, long, value_name = "NAME")]
        name: Name,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The image: the reference that it was built under, or its digest
    #[arg(value_name = "IMAGE")]
    image: String,
}

#[derive(Debug, Args)]
pub(crate) struct Build {
    #[command(flatten)]
    document: DocumentFlags,
    /// What the image is called
    #[arg(short, long, value_name = "REFERENCE")]
    tag: String,
    /// Push it to the registry of its reference, with all that is said about it
    #[arg(long)]
    push: bool,
    /// A file to write it to, as the tar of an OCI layout; or how the result is printed: json, jsonc, yaml, table, tsv
    /// or none. Both, if it is given twice
    #[arg(short, long, value_name = "FILE|FORMAT")]
    output: Vec<Output>,
    /// Print only what this JMESPath expression finds in the result
    #[arg(long, value_name = "JMESPATH", value_parser = parse_query)]
    query: Option<String>,
    /// The image that it stands on [default: the environment's, or none for an ONNX model]
    #[arg(long, value_name = "REFERENCE")]
    base: Option<String>,
    /// How layers are compressed; a model's never is
    #[arg(long, value_name = "HOW", default_value = "gzip")]
    compression: Compression,
    /// The secret with the key to sign it with
    #[arg(long, value_name = "NAME")]
    sign_with: Option<Name>,
}

/// A format, or else a file.
#[derive(Clone, Debug, PartialEq)]
enum Output {
    Format(Format),
    File(PathBuf),
}

impl From<&str> for Output {
    fn from(text: &str) -> Self {
        Format::from_str(text, false).map_or_else(|_| Self::File(text.into()), Self::Format)
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Compression {
    Gzip,
    Zstd,
    None,
}

pub(crate) async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Build(build) => self::build(session, *build).await,
        Verb::Show { which, printing } => {
            let client = session.client().await?;
            printing.print(client.get(which.url(&client)).await?, COLUMNS)
        }
        Verb::Verify { which, key, printing } => {
            let keys = key.iter().map(fs_err::read_to_string).collect::<Result<Vec<_>, _>>()?;
            let client = session.client().await?;
            let mut url = which.url(&client);
            push(&mut url, "verify");
            let body = json!({ "keys": keys });
            let reply = client.call(Method::POST, url, Some(&body), Precondition::Any).await?;
            printing.print(reply.body, Columns::ANY)
        }
        Verb::List { printing } => {
            let client = session.client().await?;
            printing.print(Value::Array(client.list(client.at(&[KIND]), None).await?), COLUMNS)
        }
        Verb::Prune { yes, printing } => {
            confirm::ask("Take away every image that no deployment uses?", yes.yes)?;
            let client = session.client().await?;
            let url = client.at(&[KIND, "prune"]);
            let reply = client.call(Method::POST, url, None, Precondition::Any).await?;
            printing.print(reply.body, Columns::ANY)
        }
        Verb::GenerateKey { name } => generate_key(session, &name).await,
    }
}

impl Which {
    fn url(&self, client: &Client) -> Url {
        client.at(&[KIND, &self.image])
    }
}

fn push(url: &mut Url, part: &str) {
    if let Ok(mut path) = url.path_segments_mut() {
        path.push(part);
    }
}

async fn build(session: &Session, build: Build) -> anyhow::Result<()> {
    if build.document.file.is_none() {
        return Err(Explained::usage("an image is made of a deployment's document")
            .hint("name it with -f")
            .into());
    }
    let mut deployment: OnlineDeployment = build.document.read(Flags::default(), &session.screen)?;
    let client = session.client().await?;
    assets::register_inline(&client, &session.screen, &mut deployment).await?;
    let compression = build.compression.to_possible_value();
    let body = json!({
        "deployment": deployment,
        "reference": build.tag,
        "push": build.push,
        "base": build.base,
        "compression": compression.as_ref().map(PossibleValue::get_name),
        "sign_with": build.sign_with,
    });
    let reply = client.call(Method::POST, client.at(&[KIND]), Some(&body), Precondition::Any).await?;
    let name = reply.body["reference"].as_str().unwrap_or(&build.tag).to_owned();
    let waiting = Waiting {
        what: &format!("image {name}"),
        look_again: &format!("moorline image show {name}"),
        logs: None,
    };
    operation::wait(&client, &session.screen, &reply, waiting).await?;
    let own = client.at(&[KIND, &name]);
    let mut format = None;
    for output in build.output {
        match output {
            Output::File(file) => download(session, &client, &own, &name, &file).await?,
            Output::Format(asked) => format = Some(asked),
        }
    }
    Printing::of(format, build.query).print(client.get(own).await?, COLUMNS)
}

/// Writes an image's archive, whole or not at all.
async fn download(
    session: &Session,
    client: &Client,
    own: &Url,
    name: &str,
    file: &Path,
) -> anyhow::Result<()> {
    let mut url = own.clone();
    push(&mut url, "archive");
    url.query_pairs_mut().append_pair("name", name);
    let response = client.send(client.request(Method::GET, url)).await?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut draft = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))
        .with_context(|| format!("could not write beside `{}`", file.display()))?;
    let expected = response.content_length();
    let bar = session.screen.bytes_bar(&format!("writing {}", file.display()), expected.unwrap_or_default());
    let mut pieces = response.bytes_stream();
    let mut written = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.context("the image's archive broke off")?;
        draft.write_all(&piece).with_context(|| format!("could not write `{}`", file.display()))?;
        written += piece.len() as u64;
        bar.inc(piece.len() as u64);
    }
    bar.finish_and_clear();
    if expected.is_some_and(|expected| expected != written) {
        anyhow::bail!("the image's archive broke off after {written} bytes");
    }
    draft.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    draft.persist(file).with_context(|| format!("could not write `{}`", file.display()))?;
    Ok(())
}

/// The key is made here, so that its private half is sent once and shown never.
async fn generate_key(session: &Session, name: &Name) -> anyhow::Result<()> {
    let client = session.client().await?;
    let known = client.list(client.at(&["secrets"]), None).await?;
    if known.iter().any(|secret| secret["name"] == name.as_str()) {
        return Err(Explained::new(format!("there is a secret `{name}` already"))
            .hint("choose another name: what was signed with a key that is replaced cannot be signed again")
            .into());
    }
    let pair = moorline_deploy::image::attest::generate_key();
    let body = json!({ "value": pair.private.expose() });
    let url = client.at(&["secrets", name.as_str()]);
    client.call(Method::PUT, url, Some(&body), Precondition::Any).await?;
    session.screen.note(format_args!("the private key is kept as the secret `{name}`"));
    crate::output::write(&pair.public)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_output_is_a_format_or_a_file() {
        assert_eq!(Output::from("json"), Output::Format(Format::Json));
        assert_eq!(Output::from("layout.tar"), Output::File("layout.tar".into()));
        assert_eq!(Output::from("./json"), Output::File("./json".into()));
    }
}
