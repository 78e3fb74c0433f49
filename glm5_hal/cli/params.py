"""`glm5-hal params`: how many parameters a configuration has, and where."""

import typer

from glm5_hal.cli import console, options


def params(config: options.Config, json: options.Json = False) -> None:
    """Count the parameters of a configuration."""
    from glm5_hal.model.config import ModelConfig
    from glm5_hal.model.params import parameter_table

    table = parameter_table(ModelConfig.load(config))
    if json:
        console.print_json(
            {
                "components": [
                    {
                        "name": row.name,
                        "per_unit": row.per_unit,
                        "units": row.units,
                        "total": row.total,
                    }
                    for row in table.rows
                ],
                "total_without_mtp": table.total_without_mtp,
                "total_with_mtp": table.total,
                "active_without_embedding_and_head": table.active,
            }
        )
        return
    short = f" ({table.active / 1e9:.2f} B)" if table.active >= 10**7 else ""
    console.print_table(
        ("component", "per unit", "units", "total"),
        [(row.name, f"{row.per_unit:,}", f"{row.units:,}", f"{row.total:,}") for row in table.rows],
        right=("per unit", "units", "total"),
    )
    typer.echo()
    console.print_facts(
        {
            "total without MTP": f"{table.total_without_mtp:,}",
            "total with MTP": f"{table.total:,}",
            "active without embedding and head": f"{table.active:,}{short}",
        }
    )
