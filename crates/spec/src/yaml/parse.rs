//! Text to tree, within bounds: a small file cannot become a large tree, however its aliases point at one another.

use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::{Content, Entry, Node, Place, scalar};
use crate::reader::{Finding, Reader};

/// Values in a document, with those that aliases stand for.
const MAX_NODES: usize = 200_000;
/// Levels of nesting.
const MAX_DEPTH: usize = 64;
/// Bytes of text, with what aliases stand for.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Reads the one document in `text`. What is wrong goes to `reader`; `None` where there is no tree, `Null` where the
/// text holds no document.
pub(crate) fn parse(reader: &mut Reader, source: u16, text: &str) -> Option<Node> {
    if let Some(finding) = unprintable(source, text) {
        reader.report(finding);
        return None;
    }
    let mut builder = Builder::new(source);
    let mut parser = Parser::new_from_str(text);
    let result = loop {
        match parser.next_event() {
            None | Some(Ok((Event::StreamEnd, _))) => break Ok(()),
            Some(Ok((event, span))) => {
                if let Err(finding) = builder.event(event, span) {
                    break Err(finding);
                }
            }
            Some(Err(error)) => break Err(scan_error(text, source, error.marker(), error.info())),
        }
    };
    for duplicate in builder.duplicates {
        reader.report(duplicate);
    }
    match result {
        Ok(()) => Some(
            builder
                .root
                .unwrap_or(Node { place: Place { source, line: 1, column: 1 }, content: Content::Null }),
        ),
        Err(finding) => {
            reader.report(finding);
            None
        }
    }
}

/// What a subtree costs, kept with its anchor so that an alias is charged before it is copied.
#[derive(Clone, Copy, Default)]
struct Cost {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

struct Anchored {
    node: Node,
    cost: Cost,
}

/// A list or an object that is not closed yet.
struct Open {
    place: Place,
    anchor: usize,
    cost: Cost,
    kind: Kind,
}

enum Kind {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<Key>, merges: Vec<Node>, index: HashMap<String, Place> },
}

struct Key {
    text: String,
    place: Place,
    merge: bool,
}

struct Builder {
    source: u16,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    anchors: HashMap<usize, Anchored>,
    spent: Cost,
    duplicates: Vec<Finding>,
}

impl Builder {
    fn new(source: u16) -> Self {
        Self {
            source,
            open: Vec::new(),
            root: None,
            documents: 0,
            anchors: HashMap::new(),
            spent: Cost::default(),
            duplicates: Vec::new(),
        }
    }

    fn place(&self, span: Span) -> Place {
        place(self.source, &span.start)
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Finding> {
        let place = self.place(span);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Finding::error(place, "a second document begins here")
                        .hint("a file holds one document; put this one into a file of its own"));
                }
                Ok(())
            }
            Event::Alias(id) => self.alias(id, place),
            Event::Scalar(text, style, anchor, tag) => {
                let content = scalar_content(&text, style, tag.as_deref(), place)?;
                let merge = style == ScalarStyle::Plain && tag.is_none() && text == "<<";
                let cost = Cost { nodes: 1, bytes: text.len(), depth: 0 };
                self.charge(cost, place)?;
                let node = Node { place, content };
                if anchor > 0 {
                    self.anchors.insert(anchor, Anchored { node: node.clone(), cost });
                }
                self.add(node, cost, merge, &text)
            }
            Event::SequenceStart(anchor, tag) => {
                known_tag(tag.as_deref(), "seq", place)?;
                self.begin(place, anchor, Kind::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                known_tag(tag.as_deref(), "map", place)?;
                let kind =
                    Kind::Map { entries: Vec::new(), key: None, merges: Vec::new(), index: HashMap::new() };
                self.begin(place, anchor, kind)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
        }
    }

    fn begin(&mut self, place: Place, anchor: usize, kind: Kind) -> Result<(), Finding> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Finding::error(place, too_deep()));
        }
        let cost = Cost { nodes: 1, bytes: 0, depth: 1 };
        self.charge(cost, place)?;
        self.open.push(Open { place, anchor, cost, kind });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Finding> {
        let Some(open) = self.open.pop() else { return Ok(()) };
        let content = match open.kind {
            Kind::List(items) => Content::List(items),
            Kind::Map { mut entries, merges, mut index, .. } => {
                for merged in merges {
                    merge(&mut entries, &mut index, merged)?;
                }
                Content::Map(entries)
            }
        };
        let node = Node { place: open.place, content };
        if open.anchor > 0 {
            self.anchors.insert(open.anchor, Anchored { node: node.clone(), cost: open.cost });
        }
        self.add(node, open.cost, false, "")
    }

    fn alias(&mut self, id: usize, place: Place) -> Result<(), Finding> {
        let Some(anchored) = self.anchors.get(&id) else {
            return Err(Finding::error(place, "an alias that stands inside of what it stands for"));
        };
        let cost = anchored.cost;
        self.charge(cost, place)?;
        if self.open.len() + cost.depth > MAX_DEPTH {
            return Err(Finding::error(place, too_deep()));
        }
        // Charged first: a copy that would exceed the bounds is never made.
        let node = self.anchors[&id].node.clone();
        let text = node.scalar_text().unwrap_or_default();
        self.add(node, cost, false, &text)
    }

    fn charge(&mut self, cost: Cost, place: Place) -> Result<(), Finding> {
        self.spent.nodes += cost.nodes;
        self.spent.bytes += cost.bytes;
        if self.spent.nodes > MAX_NODES {
            return Err(Finding::error(
                place,
                format!("more than {MAX_NODES} values, with those of aliases"),
            ));
        }
        if self.spent.bytes > MAX_BYTES {
            let bound = MAX_BYTES >> 20;
            return Err(Finding::error(
                place,
                format!("more than {bound} MiB of text, with that of aliases"),
            ));
        }
        Ok(())
    }

    /// Puts a finished node where it belongs: as an item, a key, a value, or the document.
    fn add(&mut self, node: Node, cost: Cost, is_merge: bool, written: &str) -> Result<(), Finding> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.cost.nodes += cost.nodes;
        open.cost.bytes += cost.bytes;
        open.cost.depth = open.cost.depth.max(cost.depth + 1);
        match &mut open.kind {
            Kind::List(items) => items.push(node),
            Kind::Map { entries, key, merges, index } => match key.take() {
                None => {
                    if matches!(node.content, Content::List(_) | Content::Map(_) | Content::Null) {
                        return Err(Finding::error(node.place, "a key that is not text"));
                    }
                    let text = match node.content {
                        Content::Text(text) => text,
                        _ => written.to_owned(),
                    };
                    *key = Some(Key { text, place: node.place, merge: is_merge });
                }
                Some(Key { merge: true, .. }) => merges.push(node),
                Some(Key { text, place, .. }) => {
                    if let Some(first) = index.get(&text) {
                        let message = format!("key `{}` is here twice", shown(&text));
                        let hint = format!("the first is at {}:{}", first.line, first.column);
                        self.duplicates.push(Finding::error(place, message).hint(hint));
                        return Ok(());
                    }
                    index.insert(text.clone(), place);
                    entries.push(Entry { key: text, place, value: node });
                }
            },
        }
        Ok(())
    }
}

/// `<<: *base`: what the object itself says counts, then what comes first among the merged.
fn merge(entries: &mut Vec<Entry>, index: &mut HashMap<String, Place>, merged: Node) -> Result<(), Finding> {
    match merged.content {
        Content::Map(members) => {
            for member in members {
                if !index.contains_key(&member.key) {
                    index.insert(member.key.clone(), member.place);
                    entries.push(member);
                }
            }
            Ok(())
        }
        Content::List(items) if items.iter().all(|item| matches!(item.content, Content::Map(_))) => {
            items.into_iter().try_for_each(|item| merge(entries, index, item))
        }
        _ => Err(Finding::error(merged.place, "`<<` merges objects; this is none")),
    }
}

fn scalar_content(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    place: Place,
) -> Result<Content, Finding> {
    let Some(tag) = tag else {
        return Ok(match style {
            ScalarStyle::Plain => scalar::resolve(text),
            _ => Content::Text(text.to_owned()),
        });
    };
    let as_text = || Content::Text(text.to_owned());
    if !tag.is_yaml_core_schema() {
        let anything =
            tag.handle.is_empty() && tag.suffix == "!" || tag.handle == "!" && tag.suffix.is_empty();
        return if anything { Ok(as_text()) } else { Err(unknown_tag(tag, place)) };
    }
    let resolved = scalar::resolve(text);
    let fits = match (tag.suffix.as_str(), &resolved) {
        ("str" | "timestamp", _) => return Ok(as_text()),
        ("float", Content::Int(integer, raw)) => {
            return Ok(Content::Float(*integer as f64, raw.clone()));
        }
        ("null", Content::Null)
        | ("bool", Content::Bool(..))
        | ("int", Content::Int(..))
        | ("float", Content::Float(..)) => true,
        ("null" | "bool" | "int" | "float", _) => false,
        _ => return Err(unknown_tag(tag, place)),
    };
    if fits {
        return Ok(resolved);
    }
    Err(Finding::error(place, format!("`{}` cannot be read as `!!{}`", shown(text), tag.suffix)))
}

fn known_tag(tag: Option<&Tag>, own: &str, place: Place) -> Result<(), Finding> {
    match tag {
        Some(tag) if !(tag.is_yaml_core_schema() && tag.suffix == own) => Err(unknown_tag(tag, place)),
        _ => Ok(()),
    }
}

fn unknown_tag(tag: &Tag, place: Place) -> Finding {
    let name = if tag.is_yaml_core_schema() { format!("!!{}", tag.suffix) } else { tag.to_string() };
    Finding::error(place, format!("the tag `{}` means nothing here", shown(&name)))
}

/// The parser's own words, or better ones where the cause is known.
fn scan_error(text: &str, source: u16, marker: &Marker, info: &str) -> Finding {
    let place = place(source, marker);
    if info.contains("recursion limit") {
        return Finding::error(place, too_deep());
    }
    // The parser may have stopped a line before the tab, or noticed it a line behind.
    let first = place.line.saturating_sub(1).max(1);
    for (number, line) in (first..=place.line + 1).zip(text.lines().skip(first as usize - 1)) {
        if let Some(at) = tab_in_indent(line) {
            let place = Place { source, line: number, column: at as u32 + 1 };
            return Finding::error(place, "a tab where only spaces can be").hint("indent with spaces");
        }
    }
    let finding = Finding::error(place, format!("this is not YAML: {info}"));
    if info.contains("unexpected character") {
        return finding.hint("put the value in quotes");
    }
    finding
}

/// Characters that YAML forbids outside of escapes; a terminal or a log would choke on them.
fn unprintable(source: u16, text: &str) -> Option<Finding> {
    let forbidden = |c: char| match c {
        '\t' | '\n' | '\r' | '\u{85}' => false,
        '\u{fffe}' | '\u{ffff}' => true,
        _ => c.is_control(),
    };
    let at = text.find(forbidden)?;
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    let c = text[at..].chars().next()?;
    let place = Place { source, line: line as u32, column: column as u32 };
    let finding = Finding::error(place, format!("the control character U+{:04X}", u32::from(c)));
    Some(finding.hint("remove it, or write it as an escape in double quotes"))
}

fn tab_in_indent(line: &str) -> Option<usize> {
    let at = line.find(|c| !matches!(c, ' ' | '-'))?;
    line[at..].starts_with('\t').then_some(at)
}

fn too_deep() -> String {
    format!("more than {MAX_DEPTH} levels of nesting")
}

fn place(source: u16, marker: &Marker) -> Place {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Place { source, line: number(marker.line()), column: number(marker.col()).saturating_add(1) }
}

/// As much of a text as a message shows.
pub(crate) fn shown(text: &str) -> String {
    const LENGTH: usize = 60;
    let mut shown: String = text.chars().take(LENGTH).flat_map(char::escape_debug).collect();
    if text.chars().nth(LENGTH).is_some() {
        shown.push('…');
    }
    shown.replace("\\\"", "\"").replace("\\'", "'")
}
