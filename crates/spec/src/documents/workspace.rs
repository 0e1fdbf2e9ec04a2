//! `workspace`: what holds everything else. Most of its keys in Azure ML are about Azure.

use moorline_core::Name;
use serde::Serialize;

use super::Tags;
use crate::document::Document;

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Workspace {
    pub name: Name,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
}

impl Document for Workspace {
    const KIND: &'static str = "workspace";
}
