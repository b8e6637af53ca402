# Each target stands alone on a fresh machine; scripts/bootstrap installs what it needs and says so.
.PHONY: demo test check bench soak programs fmt clean

demo:    ## mount a sandbox and give a tour of it
	@scripts/bootstrap
	@.venv/bin/labfs demo

# Four at a time disturb one another where seconds and requests are counted: what failed is run once more, alone.
test: check    ## formatting, lint, types and all tests
	.venv/bin/pytest -q -n 4 --dist worksteal || .venv/bin/pytest -q --last-failed --last-failed-no-failures none

check:   ## formatting, lint and types
	@scripts/bootstrap --test
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy

bench:   ## speed beside rclone and curl on the same bytes, near and far: about two hours; BENCH='--case near --rounds 3' for less
	@scripts/bootstrap --bench
	.venv/bin/python scripts/bench $(BENCH)

soak:    ## 600 rounds with 300 kills, 10,000 calls, 100,000 steps on one file, a fault at every request of a 300 MB save
	@scripts/bootstrap --soak
	PYTHONPATH=tests/soak:tests/support .venv/bin/python -m campaign
	LABFS_SWITCHES='{"ids": "swapped", "kms": true}' .venv/bin/pytest -q tests/backends/test_backends.py tests/mount/test_saving.py tests/mount/test_semantics.py
	LABFS_SWITCHES='{"ids": "swapped"}' .venv/bin/pytest -q tests/mount/test_requests.py tests/mount/test_tools.py
	LABFS_RECORD=datasets .venv/bin/pytest -q -m "not of_app_results" tests/mount/test_saving.py tests/mount/test_semantics.py tests/mount/test_faults.py
	LABFS_SOAK=1 .venv/bin/pytest -v tests/mount/test_machine.py tests/mount/test_fsx.py tests/soak/soak_fio.py \
		tests/core/test_hostile.py tests/mount/test_faults.py tests/mount/test_fsspec_suite.py tests/mount/test_package.py
	LABFS_SOAK=1 .venv/bin/pytest -v -n 4 tests/mount/test_five_sites.py tests/mount/test_slow_sites.py tests/mount/test_rows.py tests/mount/test_rows_of_records.py

programs: ## the editors, offices, browsers and tools that people use, saving into a mount: about half an hour
	@scripts/bootstrap --programs
	.venv/bin/pytest -q tests/programs

fmt:     ## format and mend what can be mended
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

clean:   ## remove everything that is not in the repository
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
