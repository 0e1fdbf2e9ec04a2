//! Lists: one shape for all of them, and pages.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::problem::ApiError;

/// Entries of one page, where the caller does not say.
const DEFAULT: usize = 1000;
/// Entries of one page, at most.
const MOST: usize = 1000;

/// Which part of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct Part {
    /// Entries of one page.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The `next` of the page before.
    pub(crate) after: Option<String>,
}

impl Part {
    pub(crate) fn limit(&self) -> Result<usize, ApiError> {
        match self.limit {
            None => Ok(DEFAULT),
            Some(limit @ 1..=MOST) => Ok(limit),
            Some(limit) => Err(ApiError::invalid(format!("`limit` is {limit}; it can be 1 to {MOST}"))),
        }
    }

    /// The part of a whole list that is in order of `key`.
    pub(crate) fn of<T, U>(
        &self,
        all: Vec<T>,
        key: impl Fn(&T) -> &str,
        show: impl Fn(T) -> Result<U, ApiError>,
    ) -> Result<List<U>, ApiError> {
        let limit = self.limit()?;
        let after = self.after.as_deref().map(str::to_ascii_lowercase);
        let mut rest = all
            .into_iter()
            .skip_while(|item| after.as_ref().is_some_and(|after| key(item).to_ascii_lowercase() <= *after));
        let page: Vec<T> = rest.by_ref().take(limit).collect();
        let next = rest.next().and_then(|_| page.last().map(|last| key(last).to_owned()));
        Ok(List { value: page.into_iter().map(show).collect::<Result<_, _>>()?, next })
    }
}

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    pub(crate) value: Vec<T>,
    /// The `after` of the next page; not there on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_follow_one_another_to_the_end() {
        let all = ["A", "b", "C", "d", "e"];
        let page = |after: Option<&str>| {
            let part = Part { limit: Some(2), after: after.map(ToOwned::to_owned) };
            let list = part.of(all.to_vec(), |item| item, Ok).unwrap();
            (list.value, list.next)
        };
        assert_eq!(page(None), (vec!["A", "b"], Some("b".to_owned())));
        assert_eq!(page(Some("b")), (vec!["C", "d"], Some("d".to_owned())));
        assert_eq!(page(Some("d")), (vec!["e"], None));
        assert_eq!(page(Some("z")), (vec![], None));
        assert!(Part { limit: Some(0), after: None }.limit().is_err());
    }
}
