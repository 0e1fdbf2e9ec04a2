//! Routes, as Azure IoT Edge writes them: `FROM <source> [WHERE <condition>] INTO <sink>`.

use std::str::FromStr;

use thiserror::Error;

use super::{
    condition::{Condition, ConditionError, Facts},
    identity::{ClientId, shortened},
};

/// The longest route that is read.
const LONGEST: usize = 16 * 1024;
const UPSTREAM: &str = "$upstream";

/// What is wrong with a route.
#[derive(Debug, Error)]
pub enum RouteError {
    #[error("a route is `FROM <source> [WHERE <condition>] INTO <sink>`, of at most {LONGEST} bytes")]
    Shape,
    #[error(
        "`{0}` is no source of messages; expected `/*`, `/messages/*`, `/messages/modules/*`, \
         `/messages/modules/NAME/*`, `/messages/modules/NAME/outputs/*` or `/messages/modules/NAME/outputs/OUTPUT`"
    )]
    Source(String),
    #[error("`{0}` is no sink; expected `$upstream` or `BrokeredEndpoint(\"/modules/NAME/inputs/INPUT\")`")]
    Sink(String),
    #[error("the condition of the route cannot be read")]
    Condition(#[source] ConditionError),
}

/// Which messages a route takes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    All,
    /// Of any module.
    Modules,
    Module(String),
    /// Of one module, sent to any output.
    Outputs(String),
    Output(String, String),
}

/// Where a route leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    Upstream,
    Input { module: String, input: String },
}

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    source: Source,
    condition: Option<Condition>,
    sink: Sink,
}

impl Route {
    pub fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Whether the route takes a message of `sender`, sent to `output`.
    pub(crate) fn takes(&self, sender: &ClientId, output: Option<&str>, facts: &Facts<'_>) -> bool {
        let from = match (&self.source, sender.module_name()) {
            (Source::All, _) => true,
            (_, None) => false,
            (Source::Modules, Some(_)) => true,
            (Source::Module(name), Some(module)) => name == module,
            (Source::Outputs(name), Some(module)) => name == module && output.is_some(),
            (Source::Output(name, own), Some(module)) => name == module && output == Some(own.as_str()),
        };
        from && self.condition.as_ref().is_none_or(|condition| condition.holds(facts))
    }
}

impl FromStr for Route {
    type Err = RouteError;

    fn from_str(text: &str) -> Result<Self, RouteError> {
        if text.len() > LONGEST {
            return Err(RouteError::Shape);
        }
        let rest = keyword(text.trim(), "FROM").ok_or(RouteError::Shape)?;
        let (source, rest) = rest.split_once(char::is_whitespace).ok_or(RouteError::Shape)?;
        // The last INTO: a condition may hold the word in a text, a sink cannot.
        let at = last_keyword(rest, "INTO").ok_or(RouteError::Shape)?;
        let (condition, sink) = (rest[..at].trim(), rest[at + "INTO".len()..].trim());
        let condition = if condition.is_empty() {
            None
        } else {
            let text = keyword(condition, "WHERE").ok_or(RouteError::Shape)?;
            Some(text.parse().map_err(RouteError::Condition)?)
        };
        Ok(Self { source: parse_source(source)?, condition, sink: parse_sink(sink)? })
    }
}

/// What stands behind the word at the front, if it stands there.
fn keyword<'a>(text: &'a str, word: &str) -> Option<&'a str> {
    let (front, rest) = text.split_at_checked(word.len())?;
    (front.eq_ignore_ascii_case(word) && rest.starts_with(char::is_whitespace)).then(|| rest.trim_start())
}

fn last_keyword(text: &str, word: &str) -> Option<usize> {
    let upper = text.to_ascii_uppercase();
    let whole = |at: usize| {
        let before = at == 0 || upper[..at].ends_with(char::is_whitespace);
        before && upper[at + word.len()..].starts_with(char::is_whitespace)
    };
    upper.rmatch_indices(word).map(|(at, _)| at).find(|at| whole(*at))
}

fn parse_source(text: &str) -> Result<Source, RouteError> {
    let parts: Vec<&str> = text.strip_prefix('/').unwrap_or_default().split('/').collect();
    Ok(match parts[..] {
        ["*"] | ["messages", "*"] => Source::All,
        ["messages", "modules", "*"] => Source::Modules,
        ["messages", "modules", name] | ["messages", "modules", name, "*"] if named(name) => {
            Source::Module(name.to_owned())
        }
        ["messages", "modules", name, "outputs", "*"] if named(name) => Source::Outputs(name.to_owned()),
        ["messages", "modules", name, "outputs", output] if named(name) && named(output) => {
            Source::Output(name.to_owned(), output.to_owned())
        }
        _ => return Err(RouteError::Source(shortened(text))),
    })
}

fn parse_sink(text: &str) -> Result<Sink, RouteError> {
    let error = || RouteError::Sink(shortened(text));
    if text.eq_ignore_ascii_case(UPSTREAM) {
        return Ok(Sink::Upstream);
    }
    let inner = text.strip_prefix("BrokeredEndpoint").map(str::trim).and_then(|rest| rest.strip_prefix('('));
    let inner = inner.and_then(|rest| rest.strip_suffix(')')).map(str::trim).ok_or_else(error)?;
    let quoted = |quote: char| inner.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let path = quoted('"').or_else(|| quoted('\'')).ok_or_else(error)?;
    match path.strip_prefix('/').unwrap_or_default().split('/').collect::<Vec<_>>()[..] {
        ["modules", module, "inputs", input] if named(module) && named(input) => {
            Ok(Sink::Input { module: module.to_owned(), input: input.to_owned() })
        }
        _ => Err(error()),
    }
}

/// Whether this can be the name of a module, an input or an output.
fn named(name: &str) -> bool {
    ClientId::device(name).is_ok() && name != "*"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::properties::Properties;

    fn takes(route: &str, sender: &str, output: Option<&str>, bag: &str, body: &str) -> bool {
        let sender: ClientId = sender.parse().unwrap();
        let properties = Properties::parse(bag).unwrap();
        let facts = Facts::new(&sender, &properties, body.as_bytes());
        route.parse::<Route>().unwrap().takes(&sender, output, &facts)
    }

    #[test]
    fn sources_take_what_their_names_say() {
        let cases = [
            ("/*", [true, true, true, true]),
            ("/messages/*", [true, true, true, true]),
            ("/messages/modules/*", [false, true, true, true]),
            ("/messages/modules/cam/*", [false, true, true, false]),
            ("/messages/modules/cam/outputs/*", [false, false, true, false]),
            ("/messages/modules/cam/outputs/frames", [false, false, true, false]),
            ("/messages/modules/cam/outputs/other", [false, false, false, false]),
        ];
        let senders = [("d", None), ("d/cam", None), ("d/cam", Some("frames")), ("d/mic", Some("frames"))];
        for (source, expected) in cases {
            let route = format!("from {source}  into $upstream");
            let taken = senders.map(|(sender, output)| takes(&route, sender, output, "", ""));
            assert_eq!(taken, expected, "{source}");
        }
    }

    #[test]
    fn the_routes_of_azures_documents_are_understood() {
        let route: Route = "FROM /messages/modules/cam/outputs/frames INTO BrokeredEndpoint(\"/modules/detector/inputs/frames\")"
            .parse()
            .unwrap();
        assert_eq!(*route.sink(), Sink::Input { module: "detector".into(), input: "frames".into() });
        let alert = "FROM /messages/* WHERE $body.machine.status != \"running\" INTO $upstream";
        assert!(takes(alert, "d", None, "", r#"{"machine":{"status":"down"}}"#));
        assert!(!takes(alert, "d", None, "", r#"{"machine":{"status":"running"}}"#));
        assert!(!takes(alert, "d", None, "", "not json"));
        let leaf = "FROM /messages/* WHERE NOT IS_DEFINED($connectionModuleId) INTO $upstream";
        assert!(takes(leaf, "d", None, "", ""));
        assert!(!takes(leaf, "d/m", None, "", ""));
        assert!(takes(
            "FROM /* WHERE note = 'go INTO it' INTO $upstream",
            "d",
            None,
            "note=go%20INTO%20it",
            ""
        ));
    }

    #[test]
    fn what_is_no_route_is_refused_with_the_part_that_is_wrong() {
        for bad in [
            "",
            "FROM",
            "FROM /*",
            "FROM /* INTO",
            "INTO $upstream",
            "FROM /* WHEN a INTO $upstream",
            "FROM/* INTO $upstream",
        ] {
            assert!(matches!(bad.parse::<Route>(), Err(RouteError::Shape)), "{bad}");
        }
        for source in [
            "*",
            "/messages",
            "/messages/modules/a/inputs/b",
            "/messages/modules/a/outputs/b/c",
            "/twinChangeNotifications",
            "/messages/modules//outputs/x",
        ] {
            let route = format!("FROM {source} INTO $upstream").parse::<Route>();
            assert!(matches!(route, Err(RouteError::Source(_))), "{source}");
        }
        for sink in [
            "upstream",
            "BrokeredEndpoint(/modules/a/inputs/b)",
            "BrokeredEndpoint(\"/modules/a/inputs/b#\")",
            "BrokeredEndpoint(\"/modules/a/b\")",
            "BrokeredEndpoint(\"/modules/a/inputs/b\"",
        ] {
            let route = format!("FROM /* INTO {sink}").parse::<Route>();
            assert!(matches!(route, Err(RouteError::Sink(_))), "{sink}");
        }
        assert!(matches!("FROM /* WHERE = INTO $upstream".parse::<Route>(), Err(RouteError::Condition(_))));
    }
}
