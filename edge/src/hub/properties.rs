//! The property bag of a message: what stands behind the last slash of its topic. System properties begin with `$.`,
//! all others are the sender's own.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use thiserror::Error;

/// Properties of one message.
const MOST: usize = 100;
/// What Azure's client leaves as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// A text that is no property bag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PropertiesError {
    #[error("a property is not percent-encoded UTF-8 without control characters")]
    Encoding,
    #[error("a message has more than {MOST} properties")]
    TooMany,
}

/// The properties of a message, in the order in which they came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Properties(Vec<(String, String)>);

impl Properties {
    /// Reads a bag. Whatever comes behind `?` is one too: older clients send it.
    pub fn parse(bag: &str) -> Result<Self, PropertiesError> {
        let bag = bag.strip_prefix('?').unwrap_or(bag);
        let bag = bag.strip_suffix('/').unwrap_or(bag);
        let mut properties = Vec::new();
        for pair in bag.split('&').filter(|pair| !pair.is_empty()) {
            if properties.len() == MOST {
                return Err(PropertiesError::TooMany);
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            properties.push((decode(name)?, decode(value)?));
        }
        Ok(Self(properties))
    }

    /// A system property by its short name: `on`, `mid`, `ct`.
    pub fn system(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| own.strip_prefix("$.") == Some(name)).map(|(_, value)| value.as_str())
    }

    /// One of the sender's own properties.
    pub fn own(&self, name: &str) -> Option<&str> {
        let own = |known: &str| !known.starts_with("$.") && known == name;
        self.0.iter().find(|(known, _)| own(known)).map(|(_, value)| value.as_str())
    }

    /// The sender's own properties.
    pub fn all_own(&self) -> impl Iterator<Item = (&str, &str)> {
        let own = self.0.iter().filter(|(name, _)| !name.starts_with("$."));
        own.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Sets a system property, or removes it. Sent ones stand first.
    pub fn set_system(&mut self, name: &str, value: Option<&str>) {
        self.0.retain(|(known, _)| known.strip_prefix("$.") != Some(name));
        if let Some(value) = value {
            let system = self.0.iter().take_while(|(known, _)| known.starts_with("$.")).count();
            self.0.insert(system, (format!("$.{name}"), value.to_owned()));
        }
    }

    /// Sets one of the sender's own properties.
    pub fn set_own(&mut self, name: &str, value: &str) {
        self.0.retain(|(known, _)| known != name);
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// The bag as text.
    pub fn encode(&self) -> String {
        let mut bag = String::new();
        for (name, value) in &self.0 {
            if !bag.is_empty() {
                bag.push('&');
            }
            bag.extend(utf8_percent_encode(name, ENCODED));
            bag.push('=');
            bag.extend(utf8_percent_encode(value, ENCODED));
        }
        bag
    }
}

fn decode(text: &str) -> Result<String, PropertiesError> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| PropertiesError::Encoding)?;
    if text.contains(|c: char| c.is_control()) {
        Err(PropertiesError::Encoding)
    } else {
        Ok(text.into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bag_of_the_real_client_is_understood_and_written_back() {
        let bag = "%24.on=output1&%24.mid=m1&%24.ct=application%2Fjson&%24.ce=utf-8&alert=yes%20no";
        let mut properties = Properties::parse(bag).unwrap();
        assert_eq!(properties.system("on"), Some("output1"));
        assert_eq!(properties.system("ct"), Some("application/json"));
        assert_eq!(properties.own("alert"), Some("yes no"));
        assert_eq!(properties.own("$.on"), None);
        assert_eq!(properties.encode(), bag);
        properties.set_system("on", None);
        properties.set_system("cdid", Some("dev1"));
        assert_eq!(
            properties.encode(),
            "%24.mid=m1&%24.ct=application%2Fjson&%24.ce=utf-8&%24.cdid=dev1&alert=yes%20no"
        );
    }

    #[test]
    fn bags_are_bounded() {
        assert_eq!(Properties::parse("").unwrap(), Properties::default());
        assert_eq!(Properties::parse("a&b=").unwrap().encode(), "a=&b=");
        assert_eq!(Properties::parse("a=%00"), Err(PropertiesError::Encoding));
        assert_eq!(Properties::parse("a=%ff"), Err(PropertiesError::Encoding));
        assert_eq!(Properties::parse(&"a=b&".repeat(101)), Err(PropertiesError::TooMany));
    }
}
