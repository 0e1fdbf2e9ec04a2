//! Reading an object key by key: what is known, what is missing, and which known key an unknown one was meant to be.

use crate::{
    reader::{Finding, Reader},
    yaml::{Content, Entry, Node, Place, shown},
};

/// An object that is being read. Every key that is asked for is known; [`Fields::close`] reports the others.
#[derive(Debug)]
pub(crate) struct Fields<'n> {
    kind: &'static str,
    place: Place,
    entries: &'n [Entry],
    taken: Vec<bool>,
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// `kind` is what messages call the object.
    pub(crate) fn open(reader: &mut Reader, node: &'n Node, kind: &'static str) -> Option<Self> {
        let Content::Map(entries) = &node.content else {
            reader.mismatch(node, "an object with keys");
            return None;
        };
        let taken = vec![false; entries.len()];
        Some(Self { kind, place: node.place, entries, taken, known: Vec::new() })
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// A key's entry, taken or not; it does not become known.
    pub(crate) fn peek(&self, key: &str) -> Option<&'n Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn take(&mut self, key: &str) -> Option<&'n Entry> {
        let index = self.entries.iter().position(|entry| entry.key == key)?;
        self.taken[index] = true;
        Some(&self.entries[index])
    }

    /// A key that may be left out.
    pub(crate) fn optional<T>(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        read: impl FnOnce(&mut Reader, &'n Node) -> Option<T>,
    ) -> Option<T> {
        self.known.push(key);
        let entry = self.take(key)?;
        reader.at_key(key, |reader| {
            let before = reader.errors();
            let value = read(reader, &entry.value);
            // What cannot be read is never dropped without a word.
            if value.is_none() && reader.errors() == before {
                reader.mismatch(&entry.value, "something else");
            }
            value
        })
    }

    /// A key that has to be there.
    pub(crate) fn required<T>(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        read: impl FnOnce(&mut Reader, &'n Node) -> Option<T>,
    ) -> Option<T> {
        if self.peek(key).is_none() {
            let message = format!("{} has no `{key}`", self.kind);
            // A key that is nearly this one says more than that this one is missing.
            let meant = self.entries.iter().any(|entry| nearest(&entry.key, &[key]).is_some());
            if !meant {
                reader.error(self.place, message);
            }
        }
        self.optional(reader, key, read)
    }

    /// Keys that servers write (Azure ML's, and ours) and nobody sets: dropped, so that what is shown can be read.
    pub(crate) fn read_only(&mut self, keys: &[&'static str]) {
        for key in keys {
            self.known.push(key);
            self.take(key);
        }
    }

    /// A key that only Azure can do something with: its shape is checked, and a warning says so.
    pub(crate) fn azure_only<T>(
        &mut self,
        reader: &mut Reader,
        key: &'static str,
        why: &str,
        check: impl FnOnce(&mut Reader, &'n Node) -> Option<T>,
    ) {
        if self.optional(reader, key, check).is_some()
            && let Some(entry) = self.peek(key)
        {
            let message = format!("`{key}` has no effect here: {why}");
            reader.at_key(key, |reader| reader.report(Finding::warning(entry.place, message)));
        }
    }

    /// Everything that was not asked for and is nearly nothing that is known; that is left for [`Fields::close`].
    pub(crate) fn rest(&mut self) -> Vec<&'n Entry> {
        let Self { entries, taken, known, .. } = self;
        let rest = entries
            .iter()
            .zip(taken)
            .filter(|(entry, taken)| !**taken && nearest(&entry.key, known).is_none());
        rest.map(|(entry, taken)| {
            *taken = true;
            entry
        })
        .collect()
    }

    /// Reports what was not asked for.
    pub(crate) fn close(self, reader: &mut Reader) {
        self.close_with(reader, |_| None);
    }

    /// The same, with a hint for keys that belong elsewhere.
    pub(crate) fn close_with(self, reader: &mut Reader, elsewhere: impl Fn(&str) -> Option<String>) {
        let Self { kind, entries, taken, known, .. } = self;
        for (entry, _) in entries.iter().zip(&taken).filter(|(_, taken)| !**taken) {
            let finding =
                Finding::error(entry.place, format!("unknown key `{}` in {kind}", shown(&entry.key)));
            let hint = elsewhere(&entry.key)
                .or_else(|| nearest(&entry.key, &known).map(|near| format!("did you mean `{near}`?")));
            reader.at_key(&entry.key, |reader| {
                reader.report(match hint {
                    Some(hint) => finding.hint(hint),
                    None => finding,
                });
            });
        }
    }
}

/// The known word that a person most likely meant: the same but for case and separators, or within a few letters.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    /// A longer word is no misspelling of a key.
    const LONGEST: usize = 64;
    if word.chars().count() > LONGEST {
        return None;
    }
    let plain = |text: &str| -> String {
        text.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
    };
    let own = plain(word);
    if let Some(same) = known.iter().find(|candidate| plain(candidate) == own && !own.is_empty()) {
        return Some(same);
    }
    known
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len().min(word.len()) / 3).clamp(1, 4))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// `a`, `b` or `c`.
pub(crate) fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    match quoted.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [rest @ .., last] => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_one_that_could_be_meant() {
        let known = ["instance_count", "instance_type", "name", "type", "tags"];
        for (word, near) in [
            ("instance_cout", Some("instance_count")),
            ("instanceCount", Some("instance_count")),
            ("instance-type", Some("instance_type")),
            ("nmae", Some("name")),
            ("tag", Some("tags")),
            ("colour", None),
            ("", None),
            ("-", None),
        ] {
            assert_eq!(nearest(word, &known), near, "{word}");
        }
    }
}
