//! `--query`: JMESPath, with the keys of a `{…}` in the order in which the query names them, as `az` prints them.
//!
//! The library keeps objects sorted, so the order is found in the expression and put back into the result.

use anyhow::Context;
use jmespath::ast::Ast;
use serde_json::{Map, Value};

/// Checks an expression where it is given, so that a mistake in it costs nothing.
pub(crate) fn parse(expression: &str) -> Result<String, String> {
    match jmespath::compile(expression) {
        Ok(_) => Ok(expression.to_owned()),
        Err(error) => Err(format!("not a JMESPath expression: {error}")),
    }
}

/// What `expression` finds in `value`.
pub(super) fn apply(expression: &str, value: &Value) -> anyhow::Result<Value> {
    let compiled = jmespath::compile(expression).context("the query is not a JMESPath expression")?;
    let found = compiled.search(value).context("the query cannot be applied to the result")?;
    let mut found = serde_json::to_value(&*found).context("the query found what JSON cannot hold")?;
    let mut orders = Vec::new();
    collect(compiled.as_ast(), &mut orders);
    if !orders.is_empty() {
        arrange(&mut found, &orders);
    }
    Ok(found)
}

/// The keys of every `{…}` in the expression.
fn collect<'a>(ast: &'a Ast, orders: &mut Vec<Vec<&'a str>>) {
    match ast {
        Ast::MultiHash { elements, .. } => {
            orders.push(elements.iter().map(|element| element.key.as_str()).collect());
            for element in elements {
                collect(&element.value, orders);
            }
        }
        Ast::MultiList { elements, .. } | Ast::Function { args: elements, .. } => {
            for element in elements {
                collect(element, orders);
            }
        }
        Ast::Comparison { lhs, rhs, .. }
        | Ast::Projection { lhs, rhs, .. }
        | Ast::And { lhs, rhs, .. }
        | Ast::Or { lhs, rhs, .. }
        | Ast::Subexpr { lhs, rhs, .. } => {
            collect(lhs, orders);
            collect(rhs, orders);
        }
        Ast::Condition { predicate, then, .. } => {
            collect(predicate, orders);
            collect(then, orders);
        }
        Ast::Expref { ast: node, .. }
        | Ast::Flatten { node, .. }
        | Ast::Not { node, .. }
        | Ast::ObjectValues { node, .. } => collect(node, orders),
        Ast::Identity { .. }
        | Ast::Field { .. }
        | Ast::Index { .. }
        | Ast::Literal { .. }
        | Ast::Slice { .. } => {}
    }
}

/// Puts every object whose keys are just those of one order into that order.
fn arrange(value: &mut Value, orders: &[Vec<&str>]) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(|value| arrange(value, orders));
            let made_by = |order: &&Vec<&str>| {
                order.len() == map.len() && order.iter().all(|key| map.contains_key(*key))
            };
            if let Some(order) = orders.iter().find(made_by) {
                let arranged: Map<String, Value> = order
                    .iter()
                    .filter_map(|key| map.remove(*key).map(|value| ((*key).to_owned(), value)))
                    .collect();
                *map = arranged;
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| arrange(item, orders)),
        _ => {}
    }
}
