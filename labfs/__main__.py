from labfs.cli import main

main()
