//! `ai.onnx.ml.ZipMap` at the end of a classifier: tract has no maps, so the node is cut off the graph and its table
//! is made here from the tensor that would have gone into it.

use moorline_core::{DataType, MapKeys, Maps, Tensor, TensorData};
use tract_onnx::pb::{GraphProto, NodeProto};

/// The keys of a cut-off node.
#[derive(Debug)]
pub(super) struct ZipMap {
    /// The output's name for the outside.
    pub(super) name: String,
    /// Sorted, as ONNX Runtime gives them.
    keys: MapKeys,
    /// Where each key's column is in the tensor; `None` when they are in order already.
    columns: Option<Vec<usize>>,
}

/// Cuts every `ZipMap` that makes a graph output. Of each output in order: its keys, if it was one.
pub(super) fn cut(graph: &mut GraphProto) -> Result<Vec<Option<ZipMap>>, String> {
    let mut zip_maps = Vec::with_capacity(graph.output.len());
    for index in 0..graph.output.len() {
        let name = graph.output[index].name.clone();
        let position = graph.node.iter().position(|node| {
            node.op_type == "ZipMap" && node.output.first() == Some(&name) && node.input.len() == 1
        });
        zip_maps.push(match position {
            None => None,
            Some(position) => {
                let node = graph.node.remove(position);
                graph.output[index].name.clone_from(&node.input[0]);
                Some(
                    ZipMap::new(name, &node)
                        .ok_or_else(|| format!("node `{}` (ZipMap) has no labels", node.name))?,
                )
            }
        });
    }
    Ok(zip_maps)
}

impl ZipMap {
    fn new(name: String, node: &NodeProto) -> Option<Self> {
        let attribute = |name| node.attribute.iter().find(|attribute| attribute.name == name);
        if let Some(labels) = attribute("classlabels_int64s").filter(|labels| !labels.ints.is_empty()) {
            let (keys, columns) = sorted(labels.ints.clone());
            return Some(Self { name, keys: MapKeys::I64(keys), columns });
        }
        let labels = attribute("classlabels_strings").filter(|labels| !labels.strings.is_empty())?;
        let labels = labels.strings.iter().map(|label| String::from_utf8_lossy(label).into_owned());
        let (keys, columns) = sorted(labels.collect());
        Some(Self { name, keys: MapKeys::String(keys), columns })
    }

    /// The data type of the keys.
    pub(super) const fn key_type(&self) -> DataType {
        match self.keys {
            MapKeys::I64(_) => DataType::I64,
            MapKeys::String(_) => DataType::String,
        }
    }

    /// The table of `tensor`, which has shape `[rows, keys]` or `[keys]`. The reason of a failure continues
    /// "output `y` …".
    pub(super) fn apply(&self, tensor: Tensor) -> Result<Maps, String> {
        let width = self.keys.len();
        let (shape, data) = tensor.into_parts();
        let rows = match shape[..] {
            [rows, columns] if columns == width => rows,
            [columns] if columns == width => 1,
            _ => return Err(format!("has shape {shape:?}, but the model names {width} labels")),
        };
        let data = match (&self.columns, data) {
            (None, data) => data,
            (Some(columns), TensorData::F32(values)) => {
                let row = |row: usize| columns.iter().map(move |column| (row, *column));
                (0..rows)
                    .flat_map(row)
                    .map(|(row, column)| values[row * width + column])
                    .collect::<Vec<_>>()
                    .into()
            }
            (Some(_), other) => {
                return Err(format!("has data type {}, but maps hold FP32", other.data_type()));
            }
        };
        let values = Tensor::new(vec![rows, width], data).map_err(|error| error.to_string())?;
        Ok(Maps { keys: self.keys.clone(), values })
    }
}

fn sorted<K: Ord + Clone>(labels: Vec<K>) -> (Vec<K>, Option<Vec<usize>>) {
    if labels.is_sorted() {
        return (labels, None);
    }
    let mut columns: Vec<usize> = (0..labels.len()).collect();
    columns.sort_by(|left, right| labels[*left].cmp(&labels[*right]));
    (columns.iter().map(|column| labels[*column].clone()).collect(), Some(columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_follow_the_sorted_keys() {
        let (keys, columns) = sorted(vec!["dog".to_owned(), "cat".to_owned()]);
        let zip_map = ZipMap { name: "p".to_owned(), keys: MapKeys::String(keys), columns };
        let tensor = Tensor::new(vec![2, 2], vec![0.25_f32, 0.75, 1.0, 0.0].into()).unwrap();
        let maps = zip_map.apply(tensor).unwrap();
        assert_eq!(maps.keys, MapKeys::String(vec!["cat".to_owned(), "dog".to_owned()]));
        assert_eq!(maps.values.data(), &TensorData::F32(vec![0.75, 0.25, 0.0, 1.0]));
    }

    #[test]
    fn a_single_row_without_a_batch_is_one_map() {
        let zip_map = ZipMap { name: "p".to_owned(), keys: MapKeys::I64(vec![1, 2]), columns: None };
        let maps = zip_map.apply(Tensor::new(vec![2], vec![0.5_f32, 0.5].into()).unwrap()).unwrap();
        assert_eq!(maps.values.shape(), [1, 2]);
        let wrong = Tensor::new(vec![3], vec![0.5_f32; 3].into()).unwrap();
        assert_eq!(zip_map.apply(wrong).unwrap_err(), "has shape [3], but the model names 2 labels");
    }
}
