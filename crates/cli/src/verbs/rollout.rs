//! `moorline online-endpoint rollout`: a deployment gets the traffic step by step, and loses it where it does badly.

use clap::Args;
use moorline_core::Name;
use moorline_server::{ErrorRate, Latency, Steps};
use reqwest::{Method, Url};
use serde_json::{Map, Value};

use super::online_endpoint::{COLUMNS, KIND};
use crate::{
    arguments::NoWait,
    client::{Client, Precondition},
    operation::{self, Waiting},
    output::Printing,
    session::Session,
};

#[derive(Debug, Args)]
pub(crate) struct Rollout {
    /// The endpoint's name
    #[arg(short, long, value_name = "NAME")]
    name: Name,
    /// The deployment that gets the traffic
    #[arg(long, value_name = "NAME", required_unless_present = "abort")]
    to: Option<Name>,
    /// Percentages of the traffic, and how long each is watched; the last is 100 [default: 10:5m,50:5m,100]
    #[arg(long, value_name = "PERCENT:TIME,…")]
    steps: Option<Steps>,
    /// The share of requests that may fail; 100% is no bound [default: 1%]
    #[arg(long, value_name = "PERCENT%")]
    max_error_rate: Option<ErrorRate>,
    /// What 99 of a hundred requests may take at most, as in 200ms [default: no bound]
    #[arg(long, value_name = "TIME")]
    max_p99: Option<Latency>,
    /// Requests that a judgement takes; those that are missing count as good ones [default: 100]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    min_requests: Option<u64>,
    /// End the rollout that is under way; the traffic becomes what it was before it
    #[arg(long, conflicts_with_all = ["to", "steps", "max_error_rate", "max_p99", "min_requests"])]
    abort: bool,
    #[command(flatten)]
    wait: NoWait,
    #[command(flatten)]
    printing: Printing,
}

impl Rollout {
    fn url(&self, client: &Client) -> Url {
        client.at(&[KIND, self.name.as_str(), "rollout"])
    }

    /// What was given; the server knows what holds where nothing was.
    fn wish(&self, to: &Name) -> Value {
        let text = |value: Option<String>| value.map(Value::from);
        let given = [
            ("to", Some(Value::from(to.as_str()))),
            ("steps", text(self.steps.as_ref().map(ToString::to_string))),
            ("max_error_rate", text(self.max_error_rate.map(|rate| rate.to_string()))),
            ("max_p99", text(self.max_p99.map(|latency| latency.to_string()))),
            ("min_requests", self.min_requests.map(Value::from)),
        ];
        let given = given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        Value::Object(given.collect::<Map<_, _>>())
    }
}

pub(super) async fn run(session: &Session, rollout: Rollout) -> anyhow::Result<()> {
    let client = session.client().await?;
    match &rollout.to {
        Some(to) => begin(session, &client, &rollout, to).await?,
        None => {
            client.call(Method::DELETE, rollout.url(&client), None, Precondition::Any).await?;
        }
    }
    if rollout.wait.no_wait {
        return Ok(());
    }
    let endpoint = client.get(client.at(&[KIND, rollout.name.as_str()])).await?;
    rollout.printing.print(endpoint, COLUMNS)
}

async fn begin(session: &Session, client: &Client, rollout: &Rollout, to: &Name) -> anyhow::Result<()> {
    let wish = rollout.wish(to);
    let reply = client.call(Method::POST, rollout.url(client), Some(&wish), Precondition::Any).await?;
    if rollout.wait.no_wait {
        return Ok(());
    }
    let name = &rollout.name;
    let what = format!("rollout of endpoint {name} to {to}");
    let look_again = format!("moorline online-endpoint show -n {name}");
    let logs = format!("moorline online-deployment get-logs -n {to} -e {name}");
    let waiting = Waiting { what: &what, look_again: &look_again, logs: Some(&logs) };
    operation::wait(client, &session.screen, &reply, waiting).await
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        rollout: Rollout,
    }

    fn parse(line: &str) -> Result<Rollout, String> {
        let words = ["rollout"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.rollout).map_err(|error| error.to_string())
    }

    #[test]
    fn what_was_given_is_asked_for_and_nothing_else() {
        let wish = |line: &str| {
            let rollout = parse(line).unwrap();
            rollout.wish(rollout.to.as_ref().unwrap())
        };
        assert_eq!(wish("-n iris --to green"), json!({"to": "green"}));
        assert_eq!(
            wish("-n iris --to green --steps 10:60s,100 --max-error-rate 1% --max-p99 0.2s --min-requests 5"),
            json!({"to": "green", "steps": "10:1m,100", "max_error_rate": "1%", "max_p99": "200ms", "min_requests": 5})
        );
    }

    #[test]
    fn what_cannot_be_is_said_before_anything_is_sent() {
        for (line, words) in [
            ("-n iris", "--to <NAME>"),
            ("-n iris --abort --to green", "cannot be used with"),
            ("-n iris --abort --max-p99 1s", "cannot be used with"),
            ("-n iris --to green --steps 10:5m,50", "step 2 (`50`)"),
            ("-n iris --to green --max-error-rate 0.01", "write it like 1%"),
            ("-n iris --to green --max-p99 200", "write it like 200ms"),
            ("-n iris --to green --min-requests 0", "0 is not in"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.contains(words), "{line}: {error}");
        }
        assert!(parse("-n iris --abort").unwrap().to.is_none());
    }
}
