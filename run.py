from lampq.command_line import main

main()
