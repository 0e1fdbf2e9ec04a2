//! The grammar of the command line: the verbs of `az ml`, and ours. Each verb's own flags stand beside its code.

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use clap_complete::Shell;
use moorline_core::Name;

use crate::{doctor, gateway, release, up, verbs};

/// Deploy models and scoring scripts on machines you own.
#[derive(Debug, Parser)]
#[command(
    name = "moorline",
    version,
    arg_required_else_help = true,
    infer_long_args = true,
    after_help = "Examples:\n  moorline online-endpoint create -f endpoint.yml\n  \
                  moorline online-deployment create -f blue.yml --all-traffic\n  \
                  moorline online-endpoint invoke -n iris -r request.json\n\n\
                  `moorline ml VERB` is `moorline VERB`: a script written for `az ml` runs with `az` replaced.\n\
                  Exit codes: 0 it worked, 1 it did not, 2 the command line was not understood."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The flags of every verb.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Globals {
    /// The server's address [default: the one that runs on this machine, or a new one in the background]
    #[arg(long, global = true, env = "MOORLINE_SERVER", value_name = "URL", hide_env_values = true)]
    pub(crate) server: Option<String>,
    /// The folder of the server on this machine [default: ~/.moorline]
    #[arg(long, global = true, env = "MOORLINE_HOME", value_name = "DIR", hide_env_values = true)]
    pub(crate) home: Option<PathBuf>,
    /// The workspace
    #[arg(
        short,
        long,
        global = true,
        env = "MOORLINE_WORKSPACE",
        value_name = "NAME",
        default_value = "default",
        hide_env_values = true
    )]
    pub(crate) workspace_name: Name,
    /// Accepted for scripts written for `az`, and not needed here
    #[arg(short = 'g', long, global = true, value_name = "NAME")]
    resource_group: Option<String>,
    /// Accepted for scripts written for `az`, and not needed here
    #[arg(long, global = true, value_name = "ID")]
    subscription: Option<String>,
    /// Say nothing on standard error but errors
    #[arg(long, global = true)]
    pub(crate) only_show_errors: bool,
    /// Log what is sent to the server
    #[arg(long, global = true)]
    pub(crate) verbose: bool,
    /// Log everything
    #[arg(long, global = true)]
    pub(crate) debug: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make workspaces, and look at them
    #[command(subcommand, after_help = "Example:\n  moorline workspace create -n team-a")]
    Workspace(verbs::workspace::Verb),
    /// Register models: versioned, immutable files
    #[command(subcommand, after_help = "Example:\n  moorline model create -n iris -p iris.onnx")]
    Model(verbs::model::Verb),
    /// Register environments: what a scoring script needs around it
    #[command(subcommand, after_help = "Example:\n  moorline environment create -f environment.yml")]
    Environment(verbs::environment::Verb),
    /// Register bitstreams, programs for FPGAs; look into them and check them
    #[command(subcommand, after_help = "Example:\n  moorline bitstream create -p pocl.fbit")]
    Bitstream(verbs::bitstream::Verb),
    /// See what a bitstream makes of a model
    #[command(subcommand, after_help = "Example:\n  moorline fpga plan resnet.onnx --bitstream pocl.fbit")]
    Fpga(verbs::fpga::Verb),
    /// Look at the devices of this machine that bitstreams are loaded into
    #[command(subcommand, after_help = "Example:\n  moorline device list")]
    Device(verbs::device::Verb),
    /// What `moorline device` starts for itself: a process that a driver may end
    #[command(name = verbs::device::WORKER, hide = true, after_help = "Example:\n  moorline device-worker")]
    DeviceWorker,
    /// Edge devices and their modules: who they are, what they are to be, and what they send
    #[command(subcommand, after_help = "Example:\n  moorline edge device create -n line-3 --tag site=lyon")]
    Edge(verbs::edge::Verb),
    /// Register computes: places where deployments run
    #[command(subcommand, after_help = "Example:\n  moorline compute create -n edge-box -t local")]
    Compute(verbs::compute::Verb),
    /// Make endpoints, split their traffic, and invoke them
    #[command(subcommand, after_help = "Example:\n  moorline online-endpoint create -n iris")]
    OnlineEndpoint(verbs::online_endpoint::Verb),
    /// Run models and scoring scripts under an endpoint
    #[command(
        subcommand,
        after_help = "Example:\n  moorline online-deployment create -f blue.yml --all-traffic"
    )]
    OnlineDeployment(verbs::online_deployment::Verb),
    /// Make, check and list images
    #[command(
        subcommand,
        after_help = "Example:\n  moorline image build -f deployment.yml -t registry.example.org/ml/iris:7 --push"
    )]
    Image(verbs::image::Verb),
    /// Keep values that deployments need and nobody may see
    #[command(subcommand, after_help = "Example:\n  moorline secret set db-password < password.txt")]
    Secret(verbs::secret::Verb),
    /// What is applied to clusters: manifests, differences, and the role that a server needs
    #[command(
        subcommand,
        after_help = "Example:\n  moorline kubernetes rbac --namespace ml | kubectl apply -f -"
    )]
    Kubernetes(verbs::kubernetes::Verb),
    /// Let people and programs in that are not on this machine
    #[command(subcommand, after_help = "Example:\n  moorline token create -n ci --role contributor")]
    Token(verbs::token::Verb),
    /// Run the server in the foreground
    #[command(after_help = up::EXAMPLE)]
    Up(Box<up::Up>),
    /// Run the gateway of a Kubernetes namespace in the foreground, as its pods do
    #[command(after_help = "Example:\n  moorline gateway --namespace ml")]
    Gateway(gateway::Gateway),
    /// End the server that runs on this machine
    #[command(after_help = "Examples:\n  moorline down\n  moorline down --everything")]
    Down(up::Down),
    /// Say what is installed, and what each kind of compute can do here
    #[command(after_help = "Example:\n  moorline doctor")]
    Doctor(doctor::Doctor),
    /// Make and look at releases: what a scorer serves
    #[command(
        subcommand,
        after_help = "Example:\n  moorline release create --name iris --model iris.onnx --output ./iris"
    )]
    Release(release::Command),
    /// Print the completions of a shell
    #[command(after_help = "Example:\n  moorline completion bash > /etc/bash_completion.d/moorline")]
    Completion {
        /// The shell
        shell: Shell,
    },
    /// Write the manual: one page for each verb
    #[command(after_help = "Example:\n  moorline man --output /usr/local/share/man/man1")]
    Man {
        /// The folder to write to; made if it does not exist
        #[arg(long, value_name = "DIR")]
        output: PathBuf,
    },
}

/// `--local`, which `az` takes with and without a value.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Local {
    /// On this machine, on the compute `local`
    #[arg(
        long,
        action = ArgAction::Set,
        num_args = 0..=1,
        default_missing_value = "true",
        default_value = "false",
        hide_default_value = true,
        value_name = "BOOL"
    )]
    pub(crate) local: bool,
}

/// `--yes`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Yes {
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// `--no-wait`.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct NoWait {
    /// Return as soon as the server has taken it on
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// The words of a command line without the `ml` that `az` has after its own name.
pub(crate) fn without_ml(words: impl IntoIterator<Item = std::ffi::OsString>) -> Vec<std::ffi::OsString> {
    let mut words: Vec<_> = words.into_iter().collect();
    if words.get(1).is_some_and(|word| word == "ml") {
        words.remove(1);
    }
    words
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        // No shell: words between single quotes are one word.
        let words = line.split('\'').enumerate().flat_map(|(i, part)| -> Vec<&str> {
            if i % 2 == 1 { vec![part] } else { part.split_whitespace().collect() }
        });
        Cli::try_parse_from(without_ml(words.map(Into::into)))
    }

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example() {
        fn check(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "`{path}` has no example");
            assert!(help.contains("  moorline "), "the example of `{path}` does not call moorline");
            assert!(command.get_about().is_some(), "`{path}` does not say what it does");
            for argument in command.get_arguments() {
                let said = argument.get_help().is_some() || argument.is_hide_set();
                assert!(said, "`{path}` does not say what `{}` is for", argument.get_id());
            }
            command.get_subcommands().for_each(|command| check(command, &path));
        }
        let mut command = Cli::command();
        check(&command, "");
        // The examples themselves are command lines that are understood.
        fn examples(command: &clap::Command, lines: &mut Vec<String>) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            lines.extend(
                help.lines().filter_map(|line| line.strip_prefix("  moorline ")).map(ToOwned::to_owned),
            );
            command.get_subcommands().for_each(|command| examples(command, lines));
        }
        let mut lines = Vec::new();
        command.build();
        examples(&command, &mut lines);
        for line in lines {
            let own = line.split([';', '|', '<', '>']).next().unwrap_or_default().replace('"', "'");
            if let Err(error) = parse(&format!("moorline {own}")) {
                panic!("`moorline {line}` is not understood: {error}");
            }
        }
    }

    #[test]
    fn command_lines_written_for_az_are_understood() {
        for line in [
            "az ml workspace show --name ws -g rg --subscription 0000 -o json",
            "az ml workspace create -n ws -g rg --location westeurope",
            "az ml workspace delete -n ws --all-resources -y --no-wait",
            "az ml model create --name m --version 1 --path ./model --type mlflow_model -g rg -w ws",
            "az ml model create -n m -v 1 -p model.pkl -t custom_model --set description=hello tags.a=b",
            "az ml model create -f model.yml --set name=x --set version=3",
            "az ml model list -n m --max-results 5 --query '[].{Name:name,Version:version}' -o table",
            "az ml model show -n m --label latest",
            "az ml model show --name m --version 1 --query path -o tsv",
            "az ml model update -n m -v 1 --set tags.stage=Prod --remove tags.old --add properties.list a=b",
            "az ml model archive -n m -v 1",
            "az ml model restore --name m",
            "az ml model download -n m -v 1 -p ./out",
            "az ml environment create --file env.yml --version 2",
            "az ml environment create -n e -v 1 --image ubuntu --conda-file conda.yml",
            "az ml environment create -n e --build-context ./docker --dockerfile-path Dockerfile",
            "az ml environment list --include-archived",
            "az ml compute attach --type Kubernetes -n k8s --resource-id /subscriptions/x --namespace ns",
            "az ml compute delete -n k8s --yes",
            "az ml online-endpoint create --name e -f endpoint.yml -g rg -w ws --no-wait",
            "az ml online-endpoint create -n e --auth-mode key --local true",
            "az ml online-endpoint update --name e --traffic 'blue=90 green=10' --mirror-traffic green=10",
            "az ml online-endpoint update -n e --traffic blue=90 green=10",
            "az ml online-endpoint update -n e --set tags.a=b",
            "az ml online-endpoint invoke --name e --deployment blue --request-file request.json",
            "az ml online-endpoint invoke -n e -d blue -r request.json --local",
            "az ml online-endpoint get-credentials -n e --query primaryKey -o tsv",
            "az ml online-endpoint get-credentials --name e -o tsv --query primaryKey",
            "az ml online-endpoint regenerate-keys -n e --key-type secondary",
            "az ml online-endpoint show -n e --query scoring_uri -o tsv",
            "az ml online-endpoint show -n e --query '{Name:name,State:provisioning_state}' --output table",
            "az ml online-endpoint delete -n e -y --no-wait",
            "az ml online-endpoint list --local false",
            "az ml online-deployment create --name blue --endpoint e -f blue.yml --all-traffic",
            "az ml online-deployment create -n blue -e e -f blue.yml --skip-script-validation --local --no-wait",
            "az ml online-deployment update --name blue --endpoint-name e --set instance_count=2",
            "az ml online-deployment update -n blue -e e -f blue.yml --set instance_count=2 --only-show-errors",
            "az ml online-deployment get-logs -n blue -e e --lines 100 --container inference-server",
            "az ml online-deployment get-logs -n blue --endpoint e -l 100 -c storage-initializer",
            "az ml online-deployment show -n blue -e e --debug",
            "az ml online-deployment list -e e --verbose",
            "az ml online-deployment delete -n blue -e e --yes",
        ] {
            if let Err(error) = parse(line) {
                panic!("`{line}` is not understood: {error}");
            }
        }
    }

    #[test]
    fn names_that_cannot_be_are_refused_before_anything_is_sent() {
        for line in [
            "moorline online-endpoint show -n ..",
            "moorline online-endpoint show -n a/b",
            "moorline model show -n m -v ../x",
            "moorline model list -w a/b",
            "moorline online-endpoint list --query [",
            "moorline online-endpoint update -n e --traffic blue",
            "moorline online-endpoint update -n e --traffic blue=101",
        ] {
            let error = parse(line).unwrap_err();
            assert_eq!(error.exit_code(), i32::from(crate::exit::USAGE), "{line}");
        }
    }
}
