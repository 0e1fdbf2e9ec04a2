//! Tables in JSON, rows of cells or rows of named members, collected by column into a model's inputs.
//!
//! A model with one input takes all columns in their order, whatever they are called, as ONNX knows no column names.
//! A model with several inputs takes each column by its name, or by position where columns have no names. A cell may
//! be a list, which is then one row of its input.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use moorline_core::{Signature, TensorData, TensorSpec};

use super::{
    error::{CodecError, excerpt, name_list},
    json::Reader,
    nested,
};

/// One input while its rows arrive.
struct Column<'s> {
    spec: &'s TensorSpec,
    data: TensorData,
    /// The shape of each cell, known from the first one on.
    cell: Option<Vec<usize>>,
}

/// An input that was collected: its spec, the shape as it was written, its elements.
pub(super) type Collected<'s> = (&'s TensorSpec, Vec<usize>, TensorData);

/// Inputs while rows arrive.
struct Table<'s> {
    columns: Vec<Column<'s>>,
    /// Cells a row. With one input and several cells, all of them are that input's.
    width: usize,
    rows: usize,
}

impl<'s> Table<'s> {
    /// A table whose columns are called `names`.
    fn named(names: &[Cow<'_, str>], signature: &'s Signature) -> Result<Self, CodecError> {
        if let [spec] = signature.inputs.as_slice() {
            return Ok(Self::of(std::iter::once(spec), names.len()));
        }
        let mut specs = Vec::with_capacity(names.len());
        for (position, name) in names.iter().enumerate() {
            let Some(spec) = signature.input(name) else { return Err(unknown_input(name, signature)) };
            if names[..position].contains(name) {
                return Err(CodecError::Request(format!("column `{name}` is given twice")));
            }
            specs.push(spec);
        }
        Ok(Self::of(specs, names.len()))
    }

    fn of(specs: impl IntoIterator<Item = &'s TensorSpec>, width: usize) -> Self {
        let columns = specs
            .into_iter()
            .map(|spec| Column { spec, data: TensorData::with_capacity(spec.data_type, 0), cell: None })
            .collect();
        Self { columns, width, rows: 0 }
    }

    /// Reads the value that comes next as the cell at `position` of the current row.
    fn read_cell(&mut self, reader: &mut Reader<'_>, position: usize) -> Result<(), CodecError> {
        let index = if self.columns.len() == 1 { 0 } else { position };
        let row = self.rows;
        let column = &mut self.columns[index];
        let place = || format!("[{row}][{position}]");
        let start = reader.clone();
        let shape = nested::read_into(reader, &mut column.data)
            .map_err(|error| error.within(&column.spec.name, &place()))?;
        match &column.cell {
            None => column.cell = Some(shape),
            Some(expected) if *expected != shape => {
                let reason = format!("a cell of shape {shape:?} where the ones before it have {expected:?}");
                return Err(start.misfit(place(), reason).within(&column.spec.name, ""));
            }
            Some(_) => {}
        }
        Ok(())
    }

    fn finish(self) -> Vec<Collected<'s>> {
        let packed = self.columns.len() == 1 && self.width > 1;
        self.columns
            .into_iter()
            .map(|column| {
                let mut shape = vec![self.rows];
                if packed {
                    shape.push(self.width);
                }
                shape.extend(column.cell.unwrap_or_default());
                (column.spec, shape, column.data)
            })
            .collect()
    }
}

/// A list of lists of cells whose columns are called `names`, or without names the model's inputs in their order.
pub(super) fn read_rows<'s>(
    reader: &mut Reader<'_>,
    names: Option<&[Cow<'_, str>]>,
    signature: &'s Signature,
) -> Result<Vec<Collected<'s>>, CodecError> {
    let mut table = match names {
        Some(names) => Table::named(names, signature)?,
        None => Table::of(&signature.inputs, signature.inputs.len()),
    };
    let mut more = reader.open_list()?;
    while more {
        let start = reader.clone();
        let mut width = 0;
        let mut another = reader.open_list()?;
        while another {
            if width < table.width {
                table.read_cell(reader, width)?;
            } else {
                reader.skip()?;
            }
            width += 1;
            another = reader.next_element()?;
        }
        if width != table.width {
            return Err(narrow_row(&start, &table, width));
        }
        table.rows += 1;
        more = reader.next_element()?;
    }
    Ok(table.finish())
}

#[cold]
fn narrow_row(start: &Reader<'_>, table: &Table<'_>, width: usize) -> CodecError {
    let name = table.columns.first().map_or("", |column| &*column.spec.name);
    let reason = format!("a row of {width} cells where {} columns are expected", table.width);
    start.misfit(format!("[{}]", table.rows), reason).within(name, "")
}

/// A list of objects, one a row, all with the same keys. The first one's keys are the columns, in their order.
pub(super) fn read_records<'s>(
    reader: &mut Reader<'_>,
    signature: &'s Signature,
) -> Result<Vec<Collected<'s>>, CodecError> {
    let names = member_names(reader)?;
    let mut table = Table::named(&names, signature)?;
    let mut more = reader.open_list()?;
    while more {
        let mut position = 0;
        let mut key = reader.open_object()?;
        while let Some(name) = &key {
            if names.get(position) != Some(name) {
                position = read_disordered(reader, &mut table, &names, position, name)?;
                break;
            }
            table.read_cell(reader, position)?;
            position += 1;
            key = reader.next_member()?;
        }
        if let Some(missing) = names.get(position) {
            return Err(record_error(table.rows, &format!("has no `{}`", excerpt(missing))));
        }
        table.rows += 1;
        more = reader.next_element()?;
    }
    Ok(table.finish())
}

/// Reads the rest of a record whose members come in another order than the first record's: `key` is the one whose
/// value comes next, `position` the column that should have. Gives how many columns the row has.
fn read_disordered(
    reader: &mut Reader<'_>,
    table: &mut Table<'_>,
    names: &[Cow<'_, str>],
    position: usize,
    key: &str,
) -> Result<usize, CodecError> {
    let columns: HashMap<&str, usize> =
        names.iter().enumerate().map(|(column, name)| (&**name, column)).collect();
    let mut places: Vec<Option<Reader<'_>>> = vec![None; names.len()];
    let mut key = Some(Cow::Borrowed(key));
    while let Some(name) = key {
        let Some(&column) = columns.get(&*name) else {
            let what = format!("has `{}`, which the first row has not", excerpt(&name));
            return Err(record_error(table.rows, &what));
        };
        if column < position || places[column].is_some() {
            return Err(record_error(table.rows, &format!("has `{}` twice", excerpt(&name))));
        }
        reader.peek()?;
        places[column] = Some(reader.clone());
        reader.skip()?;
        key = reader.next_member()?.map(|name| Cow::Owned(name.into_owned()));
    }
    for (column, place) in places.into_iter().enumerate().skip(position) {
        let Some(mut place) = place else { return Ok(column) };
        table.read_cell(&mut place, column)?;
    }
    Ok(names.len())
}

#[cold]
fn record_error(row: usize, what: &str) -> CodecError {
    CodecError::Request(format!("row {row} {what}"))
}

/// The keys of the first object of the list that comes next, which is read again afterwards.
fn member_names<'a>(reader: &Reader<'a>) -> Result<Vec<Cow<'a, str>>, CodecError> {
    let mut ahead = reader.clone();
    let mut names: Vec<Cow<'a, str>> = Vec::new();
    let mut seen: HashSet<Cow<'a, str>> = HashSet::new();
    if ahead.open_list()? {
        let mut key = ahead.open_object()?;
        while let Some(name) = key {
            if !seen.insert(name.clone()) {
                return Err(record_error(0, &format!("has `{}` twice", excerpt(&name))));
            }
            names.push(name);
            ahead.skip()?;
            key = ahead.next_member()?;
        }
    }
    Ok(names)
}

/// A table as pandas' `split` orientation writes it: `columns`, `data`, and an `index` that says nothing to a model.
pub(super) fn read_split<'s>(
    reader: &mut Reader<'_>,
    signature: &'s Signature,
) -> Result<Vec<Collected<'s>>, CodecError> {
    let mut columns: Option<Vec<Cow<'_, str>>> = None;
    let mut data = None;
    let mut key = reader.open_object()?;
    while let Some(name) = key {
        match &*name {
            "columns" if columns.is_none() => columns = Some(read_column_names(reader)?),
            "data" if data.is_none() => {
                reader.peek()?;
                data = Some(reader.clone());
                reader.skip()?;
            }
            "columns" | "data" => {
                return Err(CodecError::Request(format!("the table has `{name}` twice")));
            }
            "index" => reader.skip()?,
            other => {
                return Err(CodecError::Request(format!(
                    "the table has an unknown member `{}`; expected `columns`, `index` and `data`",
                    excerpt(other)
                )));
            }
        }
        key = reader.next_member()?;
    }
    let Some(mut data) = data else {
        return Err(CodecError::Request("the table has no `data`".to_owned()));
    };
    match columns {
        Some(names) => read_rows(&mut data, Some(&names), signature),
        None => read_list(&mut data, signature),
    }
}

/// Column names; pandas also writes numbers.
fn read_column_names<'a>(reader: &mut Reader<'a>) -> Result<Vec<Cow<'a, str>>, CodecError> {
    let mut names = Vec::new();
    let mut more = reader.open_list()?;
    while more {
        names.push(match reader.peek()? {
            b'"' => reader.string()?,
            b'-' | b'0'..=b'9' => Cow::Borrowed(reader.number()?.text()),
            _ => {
                let found = reader.describe()?;
                return Err(CodecError::Request(format!("`columns` holds {found}, expected names")));
            }
        });
        more = reader.next_element()?;
    }
    Ok(names)
}

/// A list with no names: one input's tensor, or rows of several inputs' cells, or records.
pub(super) fn read_list<'s>(
    reader: &mut Reader<'_>,
    signature: &'s Signature,
) -> Result<Vec<Collected<'s>>, CodecError> {
    if reader.peek_into_list() == Some(b'{') {
        return read_records(reader, signature);
    }
    match signature.inputs.as_slice() {
        [spec] => Ok(vec![read_whole(reader, spec)?]),
        _ => read_rows(reader, None, signature),
    }
}

/// One input's tensor as it is written.
pub(super) fn read_whole<'s>(
    reader: &mut Reader<'_>,
    spec: &'s TensorSpec,
) -> Result<Collected<'s>, CodecError> {
    let (shape, data) = nested::read_tensor(reader, &spec.name, spec.data_type, 16)?;
    Ok((spec, shape, data))
}

#[cold]
pub(super) fn unknown_input(name: &str, signature: &Signature) -> CodecError {
    let known = name_list(signature.inputs.iter().map(|spec| &*spec.name));
    CodecError::Request(format!("input `{}` is unknown; the model takes {known}", excerpt(name)))
}
