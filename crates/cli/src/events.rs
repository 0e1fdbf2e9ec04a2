//! Server-sent events, cut out of the bytes as they arrive.

use anyhow::bail;

/// No event of ours is this long; what is comes from something else.
const MAX_EVENT: usize = 1 << 20;

/// One event: its name, and its data with the lines put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) name: String,
    pub(crate) data: String,
}

/// The bytes that do not make a line yet, and the lines that do not make an event yet.
#[derive(Debug, Default)]
pub(crate) struct Events {
    rest: Vec<u8>,
    event: Event,
}

impl Events {
    /// The events that end within `bytes`.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> anyhow::Result<Vec<Event>> {
        let mut done = Vec::new();
        self.rest.extend_from_slice(bytes);
        while let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\r', '\n']);
            if line.is_empty() {
                let event = std::mem::take(&mut self.event);
                if !event.data.is_empty() || !event.name.is_empty() {
                    done.push(event);
                }
                continue;
            }
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "event" => value.clone_into(&mut self.event.name),
                "data" => {
                    if !self.event.data.is_empty() {
                        self.event.data.push('\n');
                    }
                    self.event.data.push_str(value);
                }
                // Ids, waits before a new connection, and comments that keep the connection alive.
                _ => {}
            }
        }
        if self.rest.len() + self.event.data.len() > MAX_EVENT {
            bail!("the server sent an event without an end");
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_found_wherever_the_bytes_are_cut() {
        let text = b": alive\n\nevent: phase\ndata: {\"phase\":\"start\"}\n\nevent: log\r\ndata: a\r\ndata: b\r\n\r\ndata:x\n\n";
        let expected = [("phase", "{\"phase\":\"start\"}"), ("log", "a\nb"), ("", "x")]
            .map(|(name, data)| Event { name: name.to_owned(), data: data.to_owned() });
        for cut in 0..text.len() {
            let mut events = Events::default();
            let mut found = events.feed(&text[..cut]).unwrap();
            found.extend(events.feed(&text[cut..]).unwrap());
            assert_eq!(found, expected, "cut at {cut}");
        }
    }

    #[test]
    fn an_event_without_an_end_is_not_kept() {
        let mut events = Events::default();
        assert!(events.feed(&vec![b'x'; MAX_EVENT + 1]).is_err());
    }
}
