//! What one replica says of itself: the few numbers of Prometheus' text that a history is made of. Whatever else is
//! there, and whatever cannot be true, is passed over.

/// No count, sum or size is larger.
const MOST: f64 = 1e15;
/// Bounds of one histogram, at most.
const MOST_BOUNDS: usize = 64;

/// A count of observations and their sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    pub count: f64,
    pub sum: f64,
}

/// What a replica has counted since it began, and what is true of it now.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Readings {
    pub cpu_seconds: Option<f64>,
    pub memory: Option<f64>,
    pub in_flight: Option<f64>,
    pub requests: f64,
    /// By the fault of the replica or of its script.
    pub failed: f64,
    /// How many requests kept each bound, by rising bounds.
    pub durations: Vec<(f64, f64)>,
    pub queue: Summary,
    pub run: Summary,
    /// The sum is rows.
    pub batch: Summary,
    pub script_restarts: f64,
}

impl Readings {
    /// Reads what it knows of a text. A series that is there more than once, under other labels, is added up.
    pub fn parse(text: &str) -> Self {
        let mut readings = Self::default();
        for line in text.lines() {
            // What cannot be read is as good as absent.
            let _ = readings.take(line.trim());
        }
        readings.durations.sort_by(|(one, _), (other, _)| one.total_cmp(other));
        readings
    }

    fn take(&mut self, line: &str) -> Option<()> {
        let end = line.find(|c: char| c == '{' || c.is_ascii_whitespace())?;
        let (name, rest) = line.split_at(end);
        let single = || split(rest).and_then(|(_, value)| number(value));
        match name {
            "process_cpu_seconds_total" | "moorline_worker_cpu_seconds_total" => {
                know(&mut self.cpu_seconds, single()?);
            }
            "process_resident_memory_bytes" | "moorline_worker_resident_memory_bytes" => {
                know(&mut self.memory, single()?);
            }
            "moorline_requests_in_flight" => know(&mut self.in_flight, single()?),
            "moorline_script_restarts_total" => add(&mut self.script_restarts, single()?),
            "moorline_queue_duration_seconds_count" => add(&mut self.queue.count, single()?),
            "moorline_queue_duration_seconds_sum" => add(&mut self.queue.sum, single()?),
            "moorline_inference_duration_seconds_count" => add(&mut self.run.count, single()?),
            "moorline_inference_duration_seconds_sum" => add(&mut self.run.sum, single()?),
            "moorline_batch_size_count" => add(&mut self.batch.count, single()?),
            "moorline_batch_size_sum" => add(&mut self.batch.sum, single()?),
            "moorline_requests_total" => {
                let (labels, value) = split(rest)?;
                let value = number(value)?;
                let code: u16 = label(labels, "code")?.parse().ok()?;
                add(&mut self.requests, value);
                if code >= 500 || matches!(code, 408 | 424 | 429) {
                    add(&mut self.failed, value);
                }
            }
            "moorline_request_duration_seconds_bucket" => {
                let (labels, value) = split(rest)?;
                let value = number(value)?;
                let bound: f64 = label(labels, "le")?.parse().ok().filter(|bound: &f64| bound.is_finite())?;
                if let Some((_, own)) = self.durations.iter_mut().find(|(own, _)| *own == bound) {
                    add(own, value);
                } else if self.durations.len() < MOST_BOUNDS {
                    self.durations.push((bound, value));
                }
            }
            _ => {}
        }
        Some(())
    }
}

/// Adds to what may not have been known yet. What cannot be read does not make it known: nothing is not 0.
fn know(own: &mut Option<f64>, more: f64) {
    add(own.get_or_insert_default(), more);
}

fn add(own: &mut f64, more: f64) {
    *own = (*own + more).min(MOST);
}

/// The labels, without their brackets, and what comes after them.
fn split(rest: &str) -> Option<(&str, &str)> {
    let Some(labels) = rest.strip_prefix('{') else { return Some(("", rest)) };
    let mut quoted = false;
    let mut escaped = false;
    for (index, character) in labels.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '}' if !quoted => return Some((&labels[..index], &labels[index + 1..])),
            _ => {}
        }
    }
    None
}

/// The value of a label as it is written. Those that are looked for need no escapes.
fn label<'a>(mut labels: &'a str, wanted: &str) -> Option<&'a str> {
    loop {
        let (name, rest) = labels.split_once("=\"")?;
        let mut escaped = false;
        let end = rest.find(|c| match c {
            _ if escaped => {
                escaped = false;
                false
            }
            '\\' => {
                escaped = true;
                false
            }
            c => c == '"',
        })?;
        if name.trim_matches([',', ' ']) == wanted {
            return Some(&rest[..end]);
        }
        labels = &rest[end + 1..];
    }
}

/// A value that can be true; a time after it is not looked at.
fn number(text: &str) -> Option<f64> {
    let value: f64 = text.split_ascii_whitespace().next()?.parse().ok()?;
    (0.0..=MOST).contains(&value).then_some(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_scorer_says_is_read() {
        let text = r#"
# HELP moorline_requests_total Scoring requests answered, by HTTP status
# TYPE moorline_requests_total counter
moorline_requests_total{code="200",deployment="blue",endpoint="iris",protocol="score"} 7
moorline_requests_total{code="200",deployment="blue",endpoint="iris",protocol="oip_rest"} 2
moorline_requests_total{code="424",deployment="blue",endpoint="iris",protocol="score"} 1
moorline_request_duration_seconds_bucket{deployment="blue",protocol="score",le="0.0001"} 3
moorline_request_duration_seconds_bucket{deployment="blue",protocol="score",le="0.01"} 8
moorline_request_duration_seconds_bucket{deployment="blue",protocol="score",le="+Inf"} 8
moorline_request_duration_seconds_bucket{deployment="blue",protocol="oip_rest",le="0.01"} 2
moorline_requests_in_flight{deployment="blue",endpoint="iris"} 4
moorline_batch_size_sum{deployment="blue",endpoint="iris"} 20
moorline_batch_size_count{deployment="blue",endpoint="iris"} 5
process_cpu_seconds_total 1.25
moorline_worker_cpu_seconds_total{deployment="blue",endpoint="iris"} 2
process_resident_memory_bytes 4.194304e+06 1700000000000
"#;
        let readings = Readings::parse(text);
        assert_eq!((readings.requests, readings.failed), (10.0, 1.0));
        assert_eq!(readings.durations, [(0.000_1, 3.0), (0.01, 10.0)]);
        assert_eq!(readings.batch, Summary { count: 5.0, sum: 20.0 });
        assert_eq!((readings.cpu_seconds, readings.memory), (Some(3.25), Some(4_194_304.0)));
        assert_eq!(readings.in_flight, Some(4.0));
    }

    #[test]
    fn what_cannot_be_true_is_passed_over() {
        let text = "process_cpu_seconds_total NaN\nprocess_resident_memory_bytes -1\n\
                    moorline_requests_in_flight +Inf\nmoorline_batch_size_sum 1e300\n\
                    moorline_requests_total{code=\"20x\"} 4\nmoorline_requests_total{code=\"200\" 4\n\
                    moorline_requests_total{a=\"\\\"}code=\\\"200\",code=\"200\"} 4\nmoorline_requests_total\n{} 1\n";
        let readings = Readings::parse(text);
        assert_eq!((readings.cpu_seconds, readings.memory, readings.in_flight), (None, None, None));
        assert_eq!((readings.requests, readings.batch.sum), (4.0, 0.0));
        let line = |bound: u32| format!("moorline_request_duration_seconds_bucket{{le=\"{bound}\"}} 1\n");
        let many = (0..10_000).map(line).collect::<Vec<_>>().concat();
        assert_eq!(Readings::parse(&many).durations.len(), MOST_BOUNDS);
    }

    proptest! {
        #[test]
        fn no_text_does_harm(text in r#"(process_cpu_seconds_total|moorline_requests_total|[a-z{}="\\ ]{0,8}|[0-9eE+.NaIinf-]{0,9}|\PC{0,6}|\n){0,40}"#) {
            let readings = Readings::parse(&text);
            let numbers = [readings.requests, readings.failed, readings.cpu_seconds.unwrap_or_default()];
            prop_assert!(numbers.iter().all(|number| (0.0..=MOST).contains(number)));
        }
    }
}
