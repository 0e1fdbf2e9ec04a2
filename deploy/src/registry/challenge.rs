//! What a registry demands before it answers: the header `WWW-Authenticate`, parsed.
//!
//! Source: RFC 9110, section 11.6.1, and the distribution project's token authentication.

use http::{HeaderMap, header::WWW_AUTHENTICATE};

/// No registry says more; what follows is not looked at.
const LONGEST: usize = 8 * 1024;

/// What a registry wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    /// A token of whoever is at `realm`.
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
}

impl Challenge {
    /// The demand that is met here: tokens before passwords, as everybody does.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        let all: Vec<Self> = headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .filter(|value| value.len() <= LONGEST)
            .flat_map(parse)
            .collect();
        let bearer = all.iter().find(|challenge| matches!(challenge, Self::Bearer { .. }));
        bearer.or(all.first()).cloned()
    }
}

/// One word or one parameter of the header.
enum Piece {
    Scheme(String),
    Parameter(String, String),
}

fn parse(value: &str) -> Vec<Challenge> {
    let mut challenges: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = value;
    while let Some((piece, after)) = next(rest) {
        rest = after;
        match (piece, challenges.last_mut()) {
            (Piece::Scheme(scheme), _) => challenges.push((scheme, Vec::new())),
            (Piece::Parameter(name, value), Some((_, parameters))) => parameters.push((name, value)),
            (Piece::Parameter(..), None) => {}
        }
    }
    let known = |(scheme, parameters): (String, Vec<(String, String)>)| {
        let find = |wanted: &str| {
            let found = parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
            found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
        };
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => Some(Challenge::Basic),
            "bearer" => Some(Challenge::Bearer {
                realm: find("realm")?,
                service: find("service"),
                scope: find("scope"),
            }),
            _ => None,
        }
    };
    challenges.into_iter().filter_map(known).collect()
}

/// The first piece, and what follows it. `None` at the end, and at what is no such header.
fn next(text: &str) -> Option<(Piece, &str)> {
    let text = text.trim_start_matches([' ', '\t', ',']);
    let length = text.find([' ', '\t', ',', '=']).unwrap_or(text.len());
    let (word, rest) = text.split_at(length);
    if word.is_empty() {
        return None;
    }
    let Some(value) = rest.trim_start().strip_prefix('=') else {
        return Some((Piece::Scheme(word.to_owned()), rest));
    };
    let value = value.trim_start();
    let Some(quoted) = value.strip_prefix('"') else {
        let (value, rest) = value.split_at(value.find([' ', '\t', ',']).unwrap_or(value.len()));
        return Some((Piece::Parameter(word.to_owned(), value.to_owned()), rest));
    };
    let mut unquoted = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((Piece::Parameter(word.to_owned(), unquoted), &quoted[at + 1..])),
            '\\' => unquoted.extend(characters.next().map(|(_, escaped)| escaped)),
            other => unquoted.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn challenge(values: &[&str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_str(value).unwrap());
        }
        Challenge::of(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Challenge {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Challenge::Bearer { realm: realm.to_owned(), service: owned(service), scope: owned(scope) }
    }

    #[test]
    fn what_registries_send_is_understood() {
        let scope = "repository:library/python:pull,push";
        for value in [
            &format!(r#"Bearer realm="https://auth.x.io/token",service="x.io",scope="{scope}""#),
            &format!(r#"bearer scope="{scope}" , Service=x.io ,realm = "https://auth.x.io/token" "#),
            &format!(
                r#"Basic realm="x", Bearer realm="https://auth.x.io/token",service="x.io",scope="{scope}",error="x""#
            ),
        ] {
            assert_eq!(
                challenge(&[value]),
                Some(bearer("https://auth.x.io/token", Some("x.io"), Some(scope))),
                "{value}"
            );
        }
        assert_eq!(challenge(&["Basic realm=\"a \\\" b\""]), Some(Challenge::Basic));
        assert_eq!(challenge(&["Basic"]), Some(Challenge::Basic));
        assert_eq!(challenge(&["Negotiate", "BASIC realm=x"]), Some(Challenge::Basic));
        assert_eq!(
            challenge(&["Bearer realm=\"https://a\",service=\"\""]),
            Some(bearer("https://a", None, None))
        );
    }

    #[test]
    fn what_is_not_understood_is_no_demand() {
        for value in
            ["", "Bearer", "Bearer service=\"x\"", "Negotiate abc==", "=,=", "Bearer realm=\"open", ",,,"]
        {
            assert_eq!(challenge(&[value]), None, "{value}");
        }
        assert_eq!(challenge(&[&format!("Basic realm=\"{}\"", "x".repeat(LONGEST))]), None);
    }
}
