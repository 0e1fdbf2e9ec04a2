//! What every verb has at hand: the global flags, the way to speak to the person, and a client of the server once one
//! is needed.

use std::{collections::BTreeMap, path::PathBuf};

use moorline_core::{Name, Secret};

use crate::{arguments::Globals, client::Client, exit::Explained, local_server, screen::Screen};

/// The variables of the environment, taken once. What has a flag is read with the flags.
#[derive(Debug)]
pub(crate) struct Variables {
    /// A token is never a flag: flags can be seen by everybody on the machine.
    pub(crate) token: Option<Secret>,
    pub(crate) no_colour: bool,
    pub(crate) user_home: Option<PathBuf>,
    pub(crate) search_path: Vec<PathBuf>,
    pub(crate) onnx_runtime: Option<PathBuf>,
    pub(crate) kubeconfig: Option<PathBuf>,
    /// `AWS_*`, by the names that the object store knows.
    pub(crate) object_store: BTreeMap<String, Secret>,
}

impl Variables {
    /// Takes them out of all that the process has.
    pub(crate) fn of(all: &BTreeMap<String, String>) -> Self {
        let filled = |name: &str| all.get(name).filter(|value| !value.is_empty());
        let path = |name: &str| filled(name).map(PathBuf::from);
        Self {
            token: filled("MOORLINE_TOKEN").cloned().map(Secret::new),
            no_colour: filled("NO_COLOR").is_some(),
            user_home: path("HOME"),
            search_path: filled("PATH").map(|path| std::env::split_paths(path).collect()).unwrap_or_default(),
            onnx_runtime: path("ORT_DYLIB_PATH"),
            kubeconfig: path("KUBECONFIG"),
            object_store: all
                .iter()
                .filter(|(name, value)| name.starts_with("AWS_") && !value.is_empty())
                .map(|(name, value)| (name.to_ascii_lowercase(), Secret::new(value.clone())))
                .collect(),
        }
    }
}

/// All variables of the process that are text.
pub(crate) fn environment_of_process() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// One call of the program.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) globals: Globals,
    pub(crate) screen: Screen,
    pub(crate) variables: Variables,
}

impl Session {
    /// `$MOORLINE_HOME`.
    pub(crate) fn home(&self) -> anyhow::Result<PathBuf> {
        let given = self.globals.home.clone();
        let own = || self.variables.user_home.as_ref().map(|home| home.join(".moorline"));
        given.or_else(own).ok_or_else(|| {
            Explained::usage("there is no home folder to keep a workspace in")
                .hint("set MOORLINE_HOME or HOME, or name a server with --server")
                .into()
        })
    }

    pub(crate) fn workspace(&self) -> &Name {
        &self.globals.workspace_name
    }

    /// A client of the server that was named, of the one that runs here, or of one that is started for it.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let workspace = self.workspace().as_str();
        let token = self.variables.token.as_ref();
        if let Some(server) = self.globals.server.as_deref().filter(|server| !server.is_empty()) {
            return Client::new(server, workspace, token);
        }
        let address = local_server::find_or_start(&self.home()?, &self.screen).await?;
        Client::new(&address.to_string(), workspace, token)
    }
}
