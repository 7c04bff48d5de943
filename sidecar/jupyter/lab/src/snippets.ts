/** Lines to paste into a notebook to read a dataset, by the kernel's language. */

import type { IDataset } from './api';

export type Language = 'python' | 'r' | 'julia';
export const LANGUAGES: Record<Language, string> = { python: 'Python', r: 'R', julia: 'Julia' };

/** What reads this dataset in that language, using only the variables that kernels have. */
export function snippet(name: string, dataset: IDataset, language: Language): string {
  const prefix = name.toUpperCase().replace(/-/g, '_');
  const database = dataset.kind === 'mysql';
  switch (language) {
    case 'python':
      return database
        ? [
            'import os',
            'import pandas as pd',
            'import sqlalchemy',
            '',
            `database = sqlalchemy.create_engine(os.environ["${prefix}_URL"])`,
            'pd.read_sql("SHOW TABLES", database)'
          ].join('\n')
        : [
            'import os',
            'from pathlib import Path',
            '',
            `folder = Path(os.environ["${prefix}_PATH"])`,
            'sorted(folder.rglob("*"))[:10]'
          ].join('\n');
    case 'r':
      return database
        ? [
            'library(DBI)',
            '',
            'driver <- if (requireNamespace("RMariaDB", quietly = TRUE)) RMariaDB::MariaDB() else RMySQL::MySQL()',
            `connection <- dbConnect(driver, default.file = Sys.getenv("${prefix}_CNF"), group = "${name}")`,
            'dbListTables(connection)'
          ].join('\n')
        : [`folder <- Sys.getenv("${prefix}_PATH")`, 'head(list.files(folder, recursive = TRUE), 10)'].join('\n');
    case 'julia':
      return database
        ? [
            'using DBInterface, MySQL',
            '',
            // Whatever is given here wins over the file, also MySQL.jl's default port.
            'connection = DBInterface.connect(MySQL.Connection, "", ""; port = 0,',
            `    option_file = ENV["${prefix}_CNF"], option_group = "${name}")`,
            '[row[1] for row in DBInterface.execute(connection, "SHOW TABLES")]'
          ].join('\n')
        : [
            `folder = ENV["${prefix}_PATH"]`,
            'first([joinpath(root, file) for (root, _, files) in walkdir(folder) for file in files], 10)'
          ].join('\n');
  }
}
