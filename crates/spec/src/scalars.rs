//! Reading single values, as strict and as lenient as Azure ML's own loader: a number is no text, but a text may be a
//! number.

use std::{collections::BTreeMap, num::NonZeroUsize};

use moorline_core::Name;

use crate::{
    documents::Tags,
    fields::{nearest, one_of},
    quantity::{parse_bytes, parse_millis},
    reader::{Finding, Reader, describe},
    yaml::{Content, Entry, Node},
};

/// Text. Numbers and booleans are refused, as Azure ML refuses them: `3.10` would become `3.1`.
pub(crate) fn text(reader: &mut Reader, node: &Node) -> Option<String> {
    match &node.content {
        Content::Text(text) => Some(text.clone()),
        Content::Loose(_, raw) => Some(raw.to_string()),
        Content::Bool(_, raw) | Content::Int(_, raw) | Content::Float(_, raw) => {
            let finding = Finding::error(node.place, format!("{} is {}", reader.subject(), describe(node)));
            reader.report(finding.expected("text").hint(format!("put it in quotes: \"{raw}\"")));
            None
        }
        Content::Null | Content::List(_) | Content::Map(_) => {
            reader.mismatch(node, "text");
            None
        }
    }
}

/// Text that says something.
pub(crate) fn filled(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = text(reader, node)?;
    if text.trim().is_empty() {
        reader.mismatch(&Node { place: node.place, content: Content::Null }, "text");
        return None;
    }
    Some(text)
}

/// An integer, or a text that is one.
pub(crate) fn integer(reader: &mut Reader, node: &Node) -> Option<i128> {
    let value = match &node.content {
        Content::Int(value, _) => Some(*value),
        Content::Float(value, _) if value.fract() == 0.0 && value.abs() < 1e15 => Some(*value as i128),
        Content::Text(text) => text.trim().replace('_', "").parse().ok(),
        Content::Loose(_, raw) => raw.trim().parse().ok(),
        _ => None,
    };
    if value.is_none() {
        reader.mismatch(node, "an integer");
    }
    value
}

/// An integer between two bounds, both inclusive.
pub(crate) fn between(least: u32, most: u32) -> impl Fn(&mut Reader, &Node) -> Option<u32> {
    move |reader, node| {
        let value = integer(reader, node)?;
        let value = u32::try_from(value).ok().filter(|value| (least..=most).contains(value));
        if value.is_none() {
            let expected = if most == u32::MAX {
                format!("an integer of at least {least}")
            } else {
                format!("an integer from {least} to {most}")
            };
            reader.mismatch(node, &expected);
        }
        value
    }
}

/// An integer that is at least one.
pub(crate) fn positive(reader: &mut Reader, node: &Node) -> Option<NonZeroUsize> {
    NonZeroUsize::new(between(1, u32::MAX)(reader, node)? as usize)
}

/// A boolean, or one of the many words that Azure ML takes for one.
pub(crate) fn boolean(reader: &mut Reader, node: &Node) -> Option<bool> {
    let word = match &node.content {
        Content::Bool(flag, _) => return Some(*flag),
        Content::Int(1, _) => return Some(true),
        Content::Int(0, _) => return Some(false),
        Content::Text(text) => text.as_str(),
        Content::Loose(_, raw) => raw,
        _ => "",
    };
    match word.to_ascii_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "on" | "1" => Some(true),
        "f" | "false" | "n" | "no" | "off" | "0" => Some(false),
        _ => {
            reader.mismatch(node, "`true` or `false`");
            None
        }
    }
}

/// A number from 0 to 1.
pub(crate) fn fraction(reader: &mut Reader, node: &Node) -> Option<f64> {
    let value = match &node.content {
        Content::Int(value, _) => Some(*value as f64),
        Content::Float(value, _) => Some(*value),
        Content::Text(text) => text.trim().parse().ok(),
        Content::Loose(_, raw) => raw.trim().parse().ok(),
        _ => None,
    };
    let value = value.filter(|value| (0.0..=1.0).contains(value));
    if value.is_none() {
        reader.mismatch(node, "a number from 0 to 1");
    }
    value
}

/// A version: text, or a number that becomes text as Python writes it.
pub(crate) fn version(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = match &node.content {
        Content::Int(..) | Content::Float(..) => plain_text(reader, node)?,
        _ => text(reader, node)?,
    };
    if text.parse::<Name>().is_err() {
        reader.mismatch(node, "a version: letters, digits, `-`, `_` and `.`, 255 at most");
        return None;
    }
    Some(text)
}

/// The text that a number or a boolean becomes, with a warning where that is not what was written.
fn plain_text(reader: &mut Reader, node: &Node) -> Option<String> {
    let text = node.scalar_text()?;
    let (kind, raw) = match &node.content {
        Content::Bool(_, raw) => ("boolean", raw),
        Content::Int(_, raw) | Content::Float(_, raw) => ("number", raw),
        _ => return Some(text),
    };
    // `True` is what Python writes; nobody reads more into it.
    if !raw.eq_ignore_ascii_case(&text) {
        let message = format!("{} is the {kind} {raw} and becomes the text `{text}`", reader.subject());
        let hint = format!("put it in quotes to keep it: \"{raw}\"");
        reader.report(Finding::warning(node.place, message).hint(hint));
    }
    Some(text)
}

/// The name of an asset, a workspace or a compute.
pub(crate) fn name(reader: &mut Reader, node: &Node) -> Option<Name> {
    let text = text(reader, node)?;
    let parsed = text.parse().ok();
    if parsed.is_none() {
        let expected =
            "a name: 1 to 255 letters, digits, `-`, `_` and `.`, beginning with a letter, a digit or `_`";
        reader.mismatch(node, expected);
    }
    parsed
}

/// The name of an endpoint: Azure ML's rule.
pub(crate) fn endpoint_name(reader: &mut Reader, node: &Node) -> Option<Name> {
    host_name(reader, node, 3)
}

/// The name of a deployment: an endpoint's rule, but short ones are names too.
pub(crate) fn deployment_name(reader: &mut Reader, node: &Node) -> Option<Name> {
    host_name(reader, node, 1)
}

fn host_name(reader: &mut Reader, node: &Node, least: usize) -> Option<Name> {
    const MOST: usize = 32;
    let text = text(reader, node)?;
    if !is_host_name(&text, least, MOST) {
        let expected = format!(
            "a name: {least} to {MOST} letters, digits and `-`, beginning with a letter and not ending with `-`"
        );
        reader.mismatch(node, &expected);
        return None;
    }
    text.parse().ok()
}

fn is_host_name(text: &str, least: usize, most: usize) -> bool {
    (least..=most).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !text.ends_with('-')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// One of some words, in whatever case Azure ML would take it (`managed`, `Managed`).
pub(crate) fn choice<T: Copy>(words: &[(&'static str, T)]) -> impl Fn(&mut Reader, &Node) -> Option<T> {
    move |reader, node| {
        let written = node.written();
        let found = written.and_then(|written| {
            let (lower, snake) = (written.to_lowercase(), snake_case(written));
            words.iter().find(|(word, _)| *word == lower || *word == snake)
        });
        if found.is_none() {
            let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            let finding = Finding::error(node.place, format!("{} is {}", reader.subject(), describe(node)))
                .expected(one_of(&known));
            let near = written.and_then(|written| nearest(written, &known));
            // With one word there is nothing to choose from.
            reader.report(match near.filter(|_| known.len() > 1) {
                Some(near) => finding.hint(format!("did you mean `{near}`?")),
                None => finding,
            });
        }
        found.map(|(_, value)| *value)
    }
}

/// `TargetUtilization` as `target_utilization`, `AMLToken` as `aml_token`.
fn snake_case(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut snake = String::with_capacity(text.len() + 4);
    for (index, c) in chars.iter().enumerate() {
        if c.is_uppercase() && index > 0 {
            let before = chars[index - 1];
            let next_is_lower = chars.get(index + 1).is_some_and(|next| next.is_lowercase());
            let boundary =
                before.is_lowercase() || before.is_ascii_digit() || (next_is_lower && before.is_uppercase());
            if boundary {
                snake.push('_');
            }
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

/// A list, each item by `read`.
pub(crate) fn list<T>(
    reader: &mut Reader,
    node: &Node,
    mut read: impl FnMut(&mut Reader, &Node) -> Option<T>,
) -> Option<Vec<T>> {
    let Content::List(items) = &node.content else {
        reader.mismatch(node, "a list");
        return None;
    };
    let read: Vec<Option<T>> = items
        .iter()
        .enumerate()
        .map(|(index, item)| reader.at_index(index, |reader| read(reader, item)))
        .collect();
    read.into_iter().collect()
}

/// The entries of an object whose keys are a person's own.
pub(crate) fn entries<'n>(reader: &mut Reader, node: &'n Node) -> Option<&'n [Entry]> {
    let Content::Map(entries) = &node.content else {
        reader.mismatch(node, "an object");
        return None;
    };
    Some(entries)
}

/// An object of names that a person chose, each value by `read`.
pub(crate) fn map<T>(
    reader: &mut Reader,
    node: &Node,
    mut read: impl FnMut(&mut Reader, &Node) -> Option<T>,
) -> Option<BTreeMap<String, T>> {
    let entries = entries(reader, node)?;
    let read: Vec<Option<(String, T)>> = entries
        .iter()
        .map(|entry| {
            let value = reader.at_key(&entry.key, |reader| read(reader, &entry.value));
            Some((entry.key.clone(), value?))
        })
        .collect();
    read.into_iter().collect()
}

/// `tags`, `properties` and variables: texts by name. Numbers and booleans become their text.
pub(crate) fn tags(reader: &mut Reader, node: &Node) -> Option<Tags> {
    map(reader, node, |reader, node| match &node.content {
        Content::Bool(..) | Content::Int(..) | Content::Float(..) => plain_text(reader, node),
        Content::Text(text) => Some(text.clone()),
        Content::Loose(_, raw) => Some(raw.to_string()),
        Content::Null | Content::List(_) | Content::Map(_) => {
            reader.mismatch(node, "text, a number or a boolean");
            None
        }
    })
}

/// A quantity of cores, as it was written. A number is one too.
pub(crate) fn cores(reader: &mut Reader, node: &Node) -> Option<String> {
    quantity(reader, node, |text| parse_millis(text).is_ok(), "cores, such as `2`, `0.5` or `500m`")
}

/// A quantity of memory, as it was written.
pub(crate) fn memory(reader: &mut Reader, node: &Node) -> Option<String> {
    quantity(reader, node, |text| parse_bytes(text).is_ok(), "memory, such as `512Mi` or `4Gi`")
}

/// A number of things that cannot be divided, as it was written.
pub(crate) fn whole(reader: &mut Reader, node: &Node) -> Option<String> {
    quantity(reader, node, |text| text.parse::<u32>().is_ok(), "a number of devices")
}

fn quantity(
    reader: &mut Reader,
    node: &Node,
    is_one: impl Fn(&str) -> bool,
    expected: &str,
) -> Option<String> {
    let text = node.scalar_text().filter(|text| is_one(text));
    if text.is_none() {
        reader.mismatch(node, expected);
    }
    text
}

/// Any object; what is in it is Azure's business.
pub(crate) fn object(reader: &mut Reader, node: &Node) -> Option<()> {
    entries(reader, node).map(|_| ())
}

/// Any list.
pub(crate) fn items(reader: &mut Reader, node: &Node) -> Option<()> {
    list(reader, node, |_, _| Some(())).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_snaked_as_azure_ml_snakes_them() {
        for (word, snake) in [
            ("TargetUtilization", "target_utilization"),
            ("AMLToken", "aml_token"),
            ("aadToken", "aad_token"),
            ("Key", "key"),
            ("mlflow_model", "mlflow_model"),
        ] {
            assert_eq!(snake_case(word), snake);
        }
    }

    #[test]
    fn endpoint_names_follow_azure_mls_rule() {
        for good in ["abc", "a-b", "A12", "diabetes", &"a".repeat(32)] {
            assert!(is_host_name(good, 3, 32), "{good}");
        }
        for bad in ["ab", "", "1ab", "-ab", "ab-", "a_b", "a.b", "a/b", "..", "ünï", &"a".repeat(33), "ab\n"]
        {
            assert!(!is_host_name(bad, 3, 32), "{bad}");
        }
    }
}
