from labfs.cli.main import main

main()
